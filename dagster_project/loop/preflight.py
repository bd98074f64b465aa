"""What is looked at before the first stage, so that what is missing is told in a second and not after an hour."""

from __future__ import annotations

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


def check(settings: Settings, environment: bool = True, journal: bool = True) -> None:
    """Raises UserError for a home that holds something else, a lake without data, a world that stands on another base,
    a base or an engine that is not there, and (if `environment`) a real environment that does not open an episode. With
    `journal`, a lake whose journal was not read yet has data.
    """
    _places(settings)
    _lake(settings, journal)
    if settings.world_dir is not None:
        _world(settings)
    load_format(settings.base, settings=settings.chat)
    check_engine(settings.engine)
    if environment and settings.environment:
        check_environment(settings.environment, settings.seed)


def _places(settings: Settings) -> None:
    """A stage's place may hold what somebody else put there, such as a world of `rehearsal world fit`."""
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
        return  # its first reading makes the lake
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
            f"the world in {settings.world_dir} stands on the base {base!r}, and the base here is {settings.base!r}; "
            f"choose {base!r}, or fit a world on {settings.base!r}: rehearsal world fit --base {settings.base}"
        )
