"""The Dagster code location `rehearsal`. It loads every module under `defs/`."""

import warnings
from pathlib import Path

from dagster import ComponentTree, Definitions, PreviewWarning, definitions

from dagster_project import defs as folder


@definitions
def defs() -> Definitions:
    """Assets, checks, jobs, schedules, sensors and resources of the loop.

    load_from_defs_folder is not used: it requires a pyproject.toml above the package, which an installed wheel lacks.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PreviewWarning)  # from Dagster's own calls
        return ComponentTree.from_module(defs_module=folder, project_root=Path(__file__).parents[1]).build_defs()
