"""Which packages the wheel holds; everything else about the distribution is in pyproject.toml.

`sql/` and `examples/` are common names. They are installed as `ingest/sql` and `rehearsal_examples`, so that they
neither hide nor are hidden by somebody else's.
"""

from setuptools import find_packages, setup

ROOMS = ["ingest*", "training*", "worldmodel*", "dagster_project*"]
examples = [f"rehearsal_{name}" for name in find_packages(include=["examples*"])]

setup(
    packages=[*find_packages(include=ROOMS), "ingest.sql", *examples],
    package_dir={"ingest.sql": "sql", "rehearsal_examples": "examples"},
)
