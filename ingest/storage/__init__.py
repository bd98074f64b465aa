"""The raw tables of a lake: which Parquet parts they consist of, and how rows get there. Start with `catalog.py`."""
