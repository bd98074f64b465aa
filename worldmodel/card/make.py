"""Make the fidelity card: per tool, how accurate the world is on held-out conversations, with baselines.

The same calls are answered by the world (rules and model), by the rules alone, by the model alone, by a replay cache,
by a copy of the nearest past transition, and by the base model without its adapter. Then complete conversations are
replayed as episodes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.table import Table

from ingest.errors import UserError
from training.workers import Tell, Workers, dealt_back
from worldmodel.artifact import read_manifest, read_split, save_tools, write_json
from worldmodel.card.ask import (
    Progress,
    Question,
    Said,
    ask_cache,
    ask_nearest,
    ask_rules,
    ask_world,
    questions,
    silent,
)
from worldmodel.card.ceiling import ceiling, lasting
from worldmodel.card.drift import drift
from worldmodel.card.episodes import episode_measures, replay_episodes
from worldmodel.card.health import memorisation, reliability, scarce
from worldmodel.card.history import SHOWN_VERSIONS, earlier, in_short, keep
from worldmodel.card.holes import ask_holes
from worldmodel.card.measures import Judged, summary
from worldmodel.card.verdict import in_words, verdict
from worldmodel.card.volatile import by_tool, find_volatile, in_sentences
from worldmodel.generate.retrieval import read_conversations
from worldmodel.generate.shapes import as_json
from worldmodel.steps import Step, group_steps, said_in
from worldmodel.users.match import ask_users, match
from worldmodel.world import WorldModel

SHOWN_BASELINES = ("rules_alone", "model_alone", "nearest_copy", "replay_cache")
COLUMNS = (
    *("tool", "n", "exact", "derivable", "fields", "outcome F1", "errors sim/real", "types", "read after write"),
    *("answered", "rules: exact, F1", "model: exact, F1", "copy: exact, F1", "cache: exact, F1", "status"),
)


class CardSettings(BaseModel):
    """How often a card asks the model. On a CPU a large base needs seconds for each of these answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_calls: int = Field(400, ge=0, description="Calls that the model alone answers, evenly sampled; a baseline.")
    base_calls: int = Field(
        200, ge=0, description="Calls that the base without its adapter answers; a baseline. Its answers are long."
    )
    holes: int = Field(120, ge=0, description="Holes that are filled in three ways.")
    user_turns: int = Field(80, ge=0, description="Held-out turns of users that the user adapter writes.")


DEFAULT = CardSettings()


async def measure(
    model: WorldModel,
    asked: Sequence[Question],
    with_base: bool = True,
    on_progress: Progress = silent,
    workers: Workers | None = None,
    with_model: bool = True,
    settings: CardSettings = DEFAULT,
) -> dict[str, Any]:
    """Return the card: `overall` and per tool, each with the measures of the world and of the baselines, and a status
    per tool. `workers`, if given, each have the model and share the questions. Without `with_model`, the model alone is
    not asked.
    """
    of_model = _some(asked, settings.model_calls) if model.rules is not None and with_model else []
    of_base = _some(asked, settings.base_calls) if with_base else []
    told = partial(_shifted, on_progress, len(asked) + len(of_model) + len(of_base))
    resolver = model.resolver
    answers = {
        "world": await _ask(model, asked, "both", told(0), workers),
        "replay_cache": ask_cache(resolver, asked),
        "nearest_copy": ask_nearest(resolver, asked),
    }
    if model.rules is not None:
        answers["rules_alone"] = ask_rules(model.rules, asked)
    if of_model:
        answers["model_alone"] = await _ask(model, of_model, "model", told(len(asked)), workers)
    if of_base:
        answers["base"] = await _ask(model, of_base, "base", told(len(asked) + len(of_model)), workers)
    tools = {}
    for tool in sorted({q.truth.tool for q in asked}):
        of_tool = {name: [j for j in found if j.truth.tool == tool] for name, found in answers.items()}
        tools[tool] = _entry(of_tool, [q for q in asked if q.truth.tool == tool], model)
        tools[tool]["status"], tools[tool]["why"] = verdict(tools[tool])
        tools[tool]["says"] = in_words(tool, tools[tool])
    card = {"overall": _entry(answers, asked, model), "tools": tools, "support": reliability(answers["world"])}
    held_out: dict[str, list[Step]] = {}
    for question in asked:
        held_out.setdefault(question.conversation_id, []).append(question.truth)
    read = model.rules.layout.read if model.rules is not None else as_json
    card["memorisation"] = memorisation(answers["world"], held_out, model.shapes, read)
    return card


def _some(asked: Sequence[Question], most: int) -> Sequence[Question]:
    return asked[:: max(1, -(-len(asked) // most))] if most else []


def _shifted(on_progress: Progress, total: int, before: int) -> Progress:
    """Progress of a part, as progress of the whole with `total` answers, of which `before` were given earlier."""
    return lambda done, of_part: on_progress(before + done, total)


async def _ask(
    model: WorldModel, asked: Sequence[Question], who: str, on_progress: Progress, workers: Workers | None
) -> list[Judged]:
    """Return the answers of `both`, of the `model` alone or of the `base`, with no tool blocked, computed here or in
    the workers."""
    if workers is None:
        return await ask_world(opened(model, who), asked, on_progress=on_progress)
    shares = [(asked[k :: len(workers)], who) for k in range(len(workers))]
    return dealt_back(await workers.map(_ask_share, shares, lambda done: on_progress(done, len(asked))))


async def _ask_share(model: WorldModel, share: tuple[Sequence[Question], str], tell: Tell) -> list[Judged]:
    asked, who = share
    return await ask_world(opened(model, who), asked, on_progress=lambda done, total: tell(done))


def opened(model: WorldModel, who: str) -> WorldModel:
    """Return the model with no tool blocked: with its rules (`both`), without them (`model`), or without its adapter
    (`base`)."""
    resolver = replace(model.resolver, blocked=frozenset())
    if who == "base":
        return WorldModel(replace(resolver, adapter=None, biases={}))
    rules = model.rules if who == "both" else None
    return WorldModel(resolver, model.user, rules, model.shapes, model.name, curves=model.curves)


def _entry(
    answers: Mapping[str, Sequence[Judged]], asked: Sequence[Question], model: WorldModel
) -> dict[str, Any]:
    profiles, shapes = model.resolver.profiles, model.shapes
    measured = {name: summary(found, profiles, shapes) for name, found in answers.items()}
    entry = {**measured.pop("world"), "baselines": measured}
    if model.rules is not None:
        entry["lasting"] = lasting(model.rules, answers["world"])
        entry["ceiling"] = ceiling(model.rules, asked)
    return entry


def make_card(
    path: Path,
    lake: Path | None = None,
    most: int | None = None,
    with_base: bool = True,
    on_progress: Progress = silent,
    processes: int = 1,
    settings: CardSettings = DEFAULT,
) -> dict[str, Any]:
    """Measure the world in `path` on its own held-out conversations, or on the conversations of another lake, in
    `processes` processes.

    For its own conversations, the card is written beside the world, and the tools that it blocks are only replayed from
    then on.
    """
    model = WorldModel.load(path)
    resolver = model.resolver
    held_out, said = _held_out(path) if lake is None else _unseen(path, lake)
    if not held_out:
        raise UserError("no held-out conversation has tool calls; ingest more conversations and fit the world again")
    trained: dict[str, list[Step]] = {}
    for entry in resolver.index.entries:
        trained.setdefault(entry.conversation_id, []).append(entry.step)
    found = find_volatile(trained, resolver.frame.effects.writes)
    volatile = by_tool(found)
    asked = questions(held_out, trained, resolver, most, model.rules, said, volatile)
    chosen = dict.fromkeys(q.conversation_id for q in asked)
    try:
        if processes > 1:
            with Workers(partial(WorldModel.load, path), processes) as workers:
                card = model.run(measure(model, asked, with_base, on_progress, workers, settings=settings))
        else:
            card = model.run(measure(model, asked, with_base, on_progress, settings=settings))
        card["holes"] = model.run(ask_holes(opened(model, "both"), asked, settings.holes))
        if model.user is not None and said and settings.user_turns:
            talks = {cid: said[cid] for cid in chosen if cid in said}
            card["users"] = match(model.run(ask_users(model.user, talks, held_out, most=settings.user_turns)))
        whole = {cid: held_out[cid] for cid in chosen}
        replayed = model.run(replay_episodes(opened(model, "both"), whole, said, volatile=volatile))
    finally:
        model.close()
    passing = frozenset((s.tool, s.outcome) for steps in held_out.values() for s in steps
                        if model.rules is not None and model.rules.passes(s.tool, s.outcome))  # fmt: skip
    card["episodes"] = episode_measures(replayed, passing)
    card["volatile"] = found
    card["drift"], card["scarce"] = drift(trained, held_out), scarce(trained)
    card["held_out"] = {"conversations": len(chosen), "calls": len(asked)}
    card["shared_entities"] = read_split(path).shared_entities
    card["split"] = _split_in_words(path, lake)
    card["world"] = read_manifest(path).get("id")
    card["history"] = [*earlier(path, card["world"]), in_short(card)] if lake is None else []
    card["says"] = health(card)
    if lake is None:
        keep(path, card["history"])
        blocked = [tool for tool, entry in card["tools"].items() if entry["status"] == "block"]
        write_json(path / "card.json", card)
        save_tools(path, replace(resolver, blocked=frozenset(blocked)))
    return card


def _split_in_words(path: Path, lake: Path | None) -> str:
    if lake is not None:
        return "The conversations are of another lake, unseen by this world; they may share entities with it."
    return read_split(path).in_words()


def _held_out(path: Path) -> tuple[dict[str, list[Step]], Said]:
    said = path / "said.json"
    return read_conversations(path / "held_out.parquet"), json.loads(said.read_text()) if said.exists() else {}


def _unseen(path: Path, lake: Path) -> tuple[dict[str, list[Step]], Said]:
    from ingest.lake import Lake

    split = read_split(path)
    seen = {*split.train, *split.calibrate}
    opened_lake = Lake.open(lake)
    steps = {cid: found for cid, found in group_steps(opened_lake.transitions()).items() if cid not in seen}
    return steps, said_in([c for c in opened_lake.conversations() if c.conversation_id in steps])


def table(card: Mapping[str, Any], console: Console) -> None:
    """Print a card as a table."""
    grid = Table(title="fidelity on held-out conversations (same calls for all)")
    for name in COLUMNS:
        grid.add_column(name, justify="left" if name in ("tool", "status") else "right")
    rows = [*card["tools"].items(), ("all", card["overall"])]
    for tool, entry in rows:
        baselines = entry["baselines"]
        grid.add_row(
            tool,
            str(entry["n"]),
            _shown(entry["exact_match"]),
            _with_n(entry["derivable"]),
            _shown(entry["field_f1"]),
            _shown(entry["outcome_f1"]),
            _errors(entry["errors"]),
            _shown(entry["value_types"]),
            _with_n(entry["read_after_write"]),
            _shown(entry["coverage"]),
            *(_baseline(baselines.get(name)) for name in SHOWN_BASELINES),
            entry.get("status", ""),
            end_section=tool == rows[-2][0],
        )
    console.print(grid)
    for entry in card["tools"].values():
        console.print(entry["says"])
    for line in health(card):
        console.print(line)


def health(card: Mapping[str, Any]) -> list[str]:
    """Return what the card says beyond its table, in sentences."""
    lines = [card["split"]] if "split" in card else []
    lines += _reachable(card.get("overall", {}))
    if "episodes" in card:
        e = card["episodes"]
        lines.append(
            f"Whole episodes: {e['episodes']} conversations, {e['n']} calls; {_shown(e['exact_match'])} exact, "
            f"{_shown(e['lasting']['exact_match'])} apart from errors that pass by themselves; read after write "
            f"{_with_n(e['read_after_write'])}; {e['ended_early']['n']} episodes ended early."
        )
    if card.get("holes", {}).get("n"):
        h = card["holes"]
        lines.append(
            f"Holes, {h['n']} answers: field F1 {_shown(h['by_schema']['field_f1'])} under the schema, "
            f"{_shown(h['freely']['field_f1'])} without, {_shown(h['drawn']['field_f1'])} drawn from the values; "
            f"usable {_shown(h['by_schema']['usable'])}, {_shown(h['freely']['usable'])}."
        )
    if card.get("users", {}).get("n"):
        u = card["users"]
        lines.append(
            f"Users, {u['n']} turns of {u['conversations']} conversations: they leave when real ones do in "
            f"{_shown(u['stop_agreement'])}; messages a conversation {_real(u['turns'])}; facts told a turn "
            f"{_real(u['disclosed'])}; told before the real user did in {_shown(u['told_later'])}; "
            f"word for word a recorded message in {_shown(u['recorded'])}; a discriminator's "
            f"area under the curve is {_shown(u['discriminator_auc'])}."
        )
    error = card.get("support", {}).get("error")
    if error is not None:
        lines.append(f"Support is off by {error:.2f} on average.")
    told = card.get("memorisation")
    if told:
        lines.append(
            f"Of {told['answers']} generated answers, {told['repeat_a_trained_conversation']} repeat a trained "
            f"conversation's own text and {told['repeat_a_held_out_conversation']} a held-out one's."
        )
    if len(card.get("history", ())) > 1:
        shown = [f"{_shown(h['exact_match'])} of {h['n']} ({h['world']})" for h in card["history"][-SHOWN_VERSIONS:]]
        lines.append(f"Exact match of the last worlds, oldest first: {', '.join(shown)}.")
    return [*lines, *in_sentences(card.get("volatile", {})), *card.get("drift", ()), *card.get("scarce", ())]


def _reachable(overall: Mapping[str, Any]) -> list[str]:
    """Say what errors that pass by themselves cost, if there are any."""
    best, kept = overall.get("ceiling"), overall.get("lasting")
    if not best or not kept or kept["n"] == overall["n"]:
        return []
    rows = ((best["derivable"], "of the derivable calls"), (best["state_changing"], "of the state-changing ones"))
    reach = [f"{_shown(best['exact_match'])} of all calls", *(f"{_shown(b['exact_match'])} {w}" for b, w in rows)]
    return [
        f"Errors that pass by themselves are drawn at their rates, so no world can exceed {', '.join(reach)}, and an "
        f"outcome F1 of {_shown(best['outcome_f1'])}. In the {kept['n']} calls without such an error on either side, "
        f"this world has {_shown(kept['exact_match'])}, {_shown(kept['derivable']['exact_match'])}, "
        f"{_shown(kept['state_changing']['exact_match'])} and {_shown(kept['outcome_f1'])}."
    ]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _real(value: Mapping[str, Any]) -> str:
    return f"{_shown(value['simulated'])} (real {_shown(value['real'])})"


def _with_n(value: Mapping[str, Any]) -> str:
    return f"{_shown(value['exact_match'])} ({value['n']})" if value["n"] else "-"


def _errors(value: Mapping[str, Any]) -> str:
    shown = f"{value['simulated']:.2f}/{value['real']:.2f}"
    return shown if value["ratio_ci"] is None else f"{shown} [{value['ratio_ci'][0]:.1f}, {value['ratio_ci'][1]:.1f}]"


def _baseline(value: Mapping[str, Any] | None) -> str:
    return "-" if value is None else f"{_shown(value['exact_match'])}, {_shown(value['outcome_f1'])}"
