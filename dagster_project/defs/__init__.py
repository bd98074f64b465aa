"""Dagster definitions, one folder per asset group."""
