"""The report, and the metadata that Dagster shows. Start with `page.py`."""
