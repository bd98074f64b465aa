"""The report of a pass, and what Dagster shows as metadata. Start with `page.py`."""
