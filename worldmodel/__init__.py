"""The world: what tools and users answer, how true that is, how it is served."""

from worldmodel.world import Episode, World, WorldModel

__all__ = ["Episode", "World", "WorldModel"]
