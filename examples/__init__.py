"""Example agents and environments, for the demo and the evaluation."""
