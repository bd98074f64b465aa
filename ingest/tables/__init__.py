"""Raw rows become the tables of `sql/`, on DuckDB or on Spark. Start with `build.py`."""
