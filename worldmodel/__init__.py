"""The world: what tools and users answer, how true that is, how it is served."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldmodel.world import Episode, World, WorldModel

__all__ = ["Episode", "World", "WorldModel"]


def __getattr__(name: str) -> Any:
    """Import `worldmodel.world` at first use: it imports transformers, which most commands do not need."""
    if name in __all__:
        return getattr(import_module("worldmodel.world"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
