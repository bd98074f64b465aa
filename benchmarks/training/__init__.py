"""Measurements of training methods against each other."""
