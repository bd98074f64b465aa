"""Checks before the first stage, so that a wrong configuration fails at once and not after an hour."""

from __future__ import annotations

import os
from difflib import get_close_matches

from dagster_project.loop.passes import STAGES
from dagster_project.loop.settings import Settings
from dagster_project.loop.stages import BEGUN, MANIFEST
from ingest.errors import UserError
from ingest.journal import segments
from ingest.lake import Lake
from training.engines.choose import check_engine
from training.models.base import load_format
from training.policy.evaluate import check_environment
from worldmodel.artifact import read_manifest

PREFIX = "REHEARSAL_"
OTHER_VARIABLES = {
    f"{PREFIX}{name}"
    for name in "DEVICE DTYPE QUANTIZE ATTENTION PRIVACY_KEY SINCE REPORT_PORT REPORT_URL INSTALL_SECONDS".split()
}
"""Variables that are no fields of the settings."""
CLOSE = 0.8
"""How similar a misspelt name is at least (difflib)."""


def check(settings: Settings, environment: bool = True, journal: bool = True) -> None:
    """Raise UserError if the loop was started in several processes, a variable is misspelt, the home holds something
    else, the lake is empty,
    the world was fitted on another base, the base or the engine is not available, or (with `environment`) the real
    environment cannot open an episode. With `journal`, a lake with an unread journal is not empty.
    """
    _one_process()
    _variables()
    _places(settings)
    _lake(settings, journal)
    if settings.world_dir is not None:
        _world(settings)
    load_format(settings.base, settings=settings.chat)
    check_engine(settings.engine, settings.vllm.server)
    if environment and settings.environment:
        check_environment(settings.environment, settings.seed)


def _one_process() -> None:
    """A stage is locked by one process. Of two that train together, each would wait for the other."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1:
        raise UserError(
            f"the loop works in one process and was launched in {count}; start it without `accelerate launch` "
            "(docs/bases.md, Devices)"
        )


def _variables() -> None:
    """A misspelt REHEARSAL_* would be ignored in silence. Variables that resemble none may be somebody else's."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    others = {name for name in os.environ if name.startswith(PREFIX)} - known - OTHER_VARIABLES
    for name in sorted(others):
        stem = name.partition("__")[0]
        near = [] if stem in known else get_close_matches(stem, known | OTHER_VARIABLES, 1, CLOSE)
        if near:
            raise UserError(f"{name} is no setting; do you mean {name.replace(stem, near[0])}?")


def _places(settings: Settings) -> None:
    """Check that stage directories hold stages and not, for example, a world of `rehearsal world fit`."""
    for stage in STAGES:
        path = settings.home / stage
        if stage == "world" and settings.world_dir is not None or path.is_symlink() or not path.is_dir():
            continue
        if any(path.iterdir()) and not any((path / name).exists() for name in (MANIFEST, BEGUN)):
            raise UserError(
                f"{path} is where the stage {stage} goes, and it holds something else; "
                "move it away or give another home"
            )


def _lake(settings: Settings, journal: bool) -> None:
    if journal and any(segments.segments(settings.lake / "journal")):
        return  # ingesting the journal creates the lake
    if Lake.open(settings.lake).is_empty():
        raise UserError(
            f"the lake {settings.lake} is empty; fill it with: rehearsal ingest --lake {settings.lake} FILES, "
            f"or rehearsal receive --lake {settings.lake}"
        )


def _world(settings: Settings) -> None:
    assert settings.world_dir is not None
    base = read_manifest(settings.world_dir)["base"]
    if base != settings.base:
        raise UserError(
            f"the world in {settings.world_dir} was fitted on the base {base!r}, and the base here is "
            f"{settings.base!r}; use {base!r}, or fit a world on {settings.base!r}: "
            f"rehearsal world fit --base {settings.base}"
        )
