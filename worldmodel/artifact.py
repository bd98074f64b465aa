"""A fitted world on disk. The manifest is written last, so a half-written world is never read.

```
manifest.json     what this is, which base it stands on, counts, what was measured of real users
rules.json        what the traces determine: record types, guards, projections, recipes, effects, with their counts
facts.json        records that are the same in all conversations
shapes.json       what values look like; hashes of what belongs to one conversation
tools.json        effects, outcome classes, patched fields, definitions in words, profiles, biases, blocked tools
support.json      by provenance, how support is calibrated
index.sqlite      past transitions for retrieval and replay
split.json        which conversations were trained on, calibrated on, held out
held_out.parquet  the held-out conversations' calls, which the card asks
said.json         what was said in them
adapter/          the world LoRA      user/    the user LoRA      (peft directories; absent if not trained)
card.json         the fidelity card, once measured
cards.jsonl       this card and those of earlier worlds, in short
```
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from ingest.atomic import write_json as write_json
from ingest.atomic import write_text
from ingest.errors import UserError
from training.engines import Engine as Sampler
from training.models.base import Base, load_base, load_format
from training.models.chat import ChatFormat
from worldmodel.derive.engine import Engine
from worldmodel.derive.rules import Rules, decode, encode
from worldmodel.derive.store import Facts
from worldmodel.derive.values import restored, storable
from worldmodel.effects import Effects
from worldmodel.generate.context import Frame
from worldmodel.generate.index import TransitionIndex
from worldmodel.generate.resolver import Resolver
from worldmodel.generate.shapes import Shapes
from worldmodel.profiles import Profile
from worldmodel.split import Split
from worldmodel.support import Curves
from worldmodel.users.knowledge import Knowledge
from worldmodel.users.reactions import Reactions
from worldmodel.users.user import UserSide

VERSION = 5


def save_tools(path: Path, resolver: Resolver) -> None:
    """Write everything of a resolver except its model."""
    frame = resolver.frame
    tools = {
        "effects": frame.effects.to_json(),
        "classes": {tool: list(names) for tool, names in frame.classes.items()},
        "patched": {tool: sorted(names) for tool, names in frame.patched.items()},
        "definitions": dict(frame.definitions),
        "profiles": {tool: profile.to_json() for tool, profile in resolver.profiles.items()},
        "biases": {tool: list(bias) for tool, bias in resolver.biases.items()},
        "blocked": sorted(resolver.blocked),
        "writes": resolver.writes,
        "body_tokens": resolver.body_tokens,
    }
    write_json(path / "tools.json", tools)
    resolver.index.save(path / "index.sqlite")


def save_rules(path: Path, rules: Rules, facts: Facts) -> None:
    """Write rules and shared facts."""
    write_text(path / "rules.json", encode(rules).decode())
    rows = [[type_, list(key), dict(fields)] for (type_, key), fields in facts.items()]
    write_json(path / "facts.json", storable(rows))


def read_rules(path: Path) -> Engine:
    """Return the rules of a world. Raises UserError if the world was fitted by a version without rules."""
    if not (path / "rules.json").exists():
        raise UserError(f"the world in {path} has no rules; fit it again with `rehearsal world fit --out {path}`")
    rows = json.loads((path / "facts.json").read_text())
    facts = {(type_, tuple(key)): fields for type_, key, fields in restored(rows)}
    return Engine(decode((path / "rules.json").read_bytes()), facts)


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a finished world. Raises UserError if there is none, or if it is newer than this code."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} holds no finished world; make one with `rehearsal world fit --out {path}`") from error
    if manifest.get("version", 0) > VERSION:
        raise UserError(
            f"the world in {path} has format {manifest['version']}, this rehearsal reads up to {VERSION}; "
            "upgrade rehearsal or fit the world again"
        )
    return manifest


def read_split(path: Path) -> Split:
    value = json.loads((path / "split.json").read_text())
    parts = {name: tuple(value[name]) for name in ("train", "calibrate", "test")}
    return Split(**parts, shared_entities=value["shared_entities"], with_entities=value.get("with_entities"))


def write_split(path: Path, split: Split) -> None:
    write_json(path / "split.json", asdict(split))


def save_shapes(path: Path, shapes: Shapes) -> None:
    write_text(path / "shapes.json", msgspec.json.encode(storable(msgspec.to_builtins(shapes))).decode())


def read_shapes(path: Path) -> Shapes:
    """Return the shapes of a world; empty if the world was fitted by a version without shapes."""
    file = path / "shapes.json"
    return msgspec.convert(restored(msgspec.json.decode(file.read_bytes())), Shapes) if file.exists() else Shapes()


Parts = tuple[Resolver, UserSide | None, Engine, Shapes, str]
"""What answers for the model, what answers for the user (None where no user was fitted), the rules, what values look
like, and the world's id."""


def load_parts(path: Path, engine: Sampler | None = None, base: Base | None = None) -> tuple[Parts, Curves]:
    """Return the parts of a WorldModel and the calibration of its support.

    A given engine must serve the base that the manifest names; its weights are then not loaded again.
    """
    manifest = read_manifest(path)
    if engine is None:
        base = base or load_base(manifest["base"])
        engine = _local_engine(base)
    chat = base.format if base is not None else load_format(manifest["base"])
    names: dict[str, str] = {}
    for role, directory in manifest["adapters"].items():
        if directory is not None:
            names[role] = f"{role}@{manifest['id']}"
            engine.load_adapter(names[role], path / directory)
    resolver = read_resolver(path, engine, chat, names.get("world"))
    user = None
    if "user" in names:
        longest = manifest.get("reply_tokens", UserSide.max_tokens)
        user = UserSide(engine, chat, names["user"], **_of_users(manifest), max_tokens=longest)
    curves = json.loads((path / "support.json").read_text()) if (path / "support.json").exists() else {}
    return (resolver, user, read_rules(path), read_shapes(path), manifest["id"]), curves


def _of_users(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured of real users. A world of an earlier version has only the most messages that one wrote."""
    known = manifest.get("users") or {"patience": manifest["max_turns"], "leave_bias": 0.0, "knowledge": {}}
    reactions = Reactions.from_json(known.get("reactions", {}))
    return {**known, "knowledge": Knowledge(**known["knowledge"]), "reactions": reactions}


def read_resolver(path: Path, engine: Sampler, chat: ChatFormat, adapter: str | None) -> Resolver:
    """The resolver of a world. Raises UserError where the world was fitted before its index was kept on disk."""
    if not (path / "index.sqlite").exists():
        raise UserError(f"the world in {path} has no index; fit it again with `rehearsal world fit --out {path}`")
    tools = json.loads((path / "tools.json").read_text())
    frame = Frame(
        Effects.from_json(tools["effects"]),
        {tool: tuple(names) for tool, names in tools["classes"].items()},
        {tool: frozenset(names) for tool, names in tools["patched"].items()},
        tools.get("definitions", {}),
    )
    return Resolver(
        engine=engine,
        chat=chat,
        adapter=adapter,
        frame=frame,
        index=TransitionIndex.load(path / "index.sqlite"),
        profiles={tool: Profile.from_json(value) for tool, value in tools["profiles"].items()},
        biases=tools["biases"],
        blocked=frozenset(tools["blocked"]),
        writes=tools.get("writes", True),
        body_tokens=tools.get("body_tokens", Resolver.body_tokens),
    )


def _local_engine(base: Base) -> Sampler:
    from training.engines.local import LocalEngine

    return LocalEngine(base.model, base.format.pad_id)
