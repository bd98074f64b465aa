"""`python -m dagster_project.cli`: the command `rehearsal`."""

from dagster_project.cli.main import main

main()
