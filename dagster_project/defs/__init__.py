"""One folder a stage. Dagster's UI groups the assets the same way."""
