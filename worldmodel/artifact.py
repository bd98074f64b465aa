"""A fitted world on disk. The manifest is written last, so a half-written world is never read.

```
manifest.json     what this is, which base it stands on, counts
tools.json        effects, outcome classes, patched fields, profiles, biases, blocked tools
index.parquet     past transitions for retrieval and replay
split.json        which conversations were trained on, calibrated on, held out
held_out.parquet  the held-out conversations' calls, which the card asks
adapter/          the world LoRA      user/    the user LoRA      (peft directories; absent if not trained)
card.json         the fidelity card, once measured
```
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ingest.atomic import write_json as write_json
from ingest.errors import UserError
from training.engines import Engine
from training.models.base import Base, load_base
from worldmodel.context import Frame
from worldmodel.effects import Effects
from worldmodel.profiles import Profile
from worldmodel.resolver import Resolver
from worldmodel.retrieval import TransitionIndex
from worldmodel.split import Split
from worldmodel.user import UserSide
from worldmodel.world import WorldModel

VERSION = 1


def save_tools(path: Path, resolver: Resolver) -> None:
    """Write everything of a resolver but its model."""
    frame = resolver.frame
    tools = {
        "effects": frame.effects.to_json(),
        "classes": {tool: list(names) for tool, names in frame.classes.items()},
        "patched": {tool: sorted(names) for tool, names in frame.patched.items()},
        "profiles": {tool: profile.to_json() for tool, profile in resolver.profiles.items()},
        "biases": {tool: list(bias) for tool, bias in resolver.biases.items()},
        "blocked": sorted(resolver.blocked),
    }
    write_json(path / "tools.json", tools)
    resolver.index.save(path / "index.parquet")


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a finished world. Raises UserError where there is none, or a newer one than this
    code.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} holds no finished world; make one with `rehearsal world fit --out {path}`"
        ) from error
    if manifest.get("version", 0) > VERSION:
        raise UserError(
            f"the world in {path} has format {manifest['version']}, this rehearsal reads up to {VERSION}; "
            "upgrade rehearsal or fit the world again"
        )
    return manifest


def read_split(path: Path) -> Split:
    value = json.loads((path / "split.json").read_text())
    parts = {name: tuple(value[name]) for name in ("train", "calibrate", "test")}
    return Split(**parts, shared_entities=value["shared_entities"])


def write_split(path: Path, split: Split) -> None:
    write_json(path / "split.json", asdict(split))


def load_model(path: Path, engine: Engine | None = None, base: Base | None = None) -> WorldModel:
    """See WorldModel.load. An engine that is given must serve the base that the manifest names."""
    manifest = read_manifest(path)
    base = base or load_base(manifest["base"])
    engine = engine or _local_engine(base)
    names: dict[str, str] = {}
    for role, directory in manifest["adapters"].items():
        if directory is not None:
            names[role] = f"{role}@{manifest['id']}"
            engine.load_adapter(names[role], path / directory)
    resolver = read_resolver(path, engine, base, names.get("world"))
    user = None
    if "user" in names:
        user = UserSide(engine, base.format, names["user"], manifest["max_turns"])
    return WorldModel(resolver, user)


def read_resolver(path: Path, engine: Engine, base: Base, adapter: str | None) -> Resolver:
    tools = json.loads((path / "tools.json").read_text())
    frame = Frame(
        Effects.from_json(tools["effects"]),
        {tool: tuple(names) for tool, names in tools["classes"].items()},
        {tool: frozenset(names) for tool, names in tools["patched"].items()},
    )
    return Resolver(
        engine=engine,
        chat=base.format,
        adapter=adapter,
        frame=frame,
        index=TransitionIndex.load(path / "index.parquet"),
        profiles={tool: Profile.from_json(value) for tool, value in tools["profiles"].items()},
        biases=tools["biases"],
        blocked=frozenset(tools["blocked"]),
    )


def _local_engine(base: Base) -> Engine:
    from training.engines.local import LocalEngine

    return LocalEngine(base.model, base.format.pad_id)
