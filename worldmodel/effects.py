"""What tools do, learned from how answers change: which tools write, which read an entity, which errors are transient.

Nothing here is configured per system. Without data, a prior on the verb in the tool's name decides (`get`, `search`,
... read).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, replace
from typing import Any

from worldmodel.steps import OK, Step, content_leaves, core, entity_marks, is_identifier, leaves

READ_VERBS = frozenset(
    "get list search find track calculate calc think wait sleep read show fetch lookup look check "
    "view describe count query compute convert validate verify estimate quote whoami status retrieve "
    "browse is has ask".split()
)
TRANSIENT_NAMES = re.compile(
    r"time_?out|timed_?out|rate_?limit|rate_?exceeded|rate_too_high|throttl|too_?many_?(?:requests|attempts)|overload|"
    r"temporar|^unavailable(?:_?error)?$|currently_unavailable|(?:server|system)_?busy|econn|retry_?error|"
    r"(?:service|server|system|api|upstream|backend|gateway|host|network|database)(?:_is)?_?unavailable|"
    r"connection_?(?:error|reset|refused|aborted|closed|lost|timed|failed)|http_?(?:429|50[0234])|"
    r"(?:^|[^a-z0-9])(?:429|50[0234]|busy|retry|connection)(?:[^a-z0-9]|$)"
)
"""Names of errors that say of the system, not of a thing in it, that it cannot answer now: `service_unavailable`, but
not `item_unavailable`."""
FEWEST_AGAIN = 3
"""A tool that answered so many equal calls as before may be a read, though its name does not say so."""
TRAIL = 6
"""How many recent calls a history-sensitive tool is shown."""


@dataclass(frozen=True)
class Effects:
    """The learned facts about all tools of one system.

    `readers` maps an entity argument's key to the tool that returns that entity. `transient` has (tool, outcome class)
    pairs whose repetition usually ends otherwise. `historic` are the tools whose outcome depends on the number of
    recent calls. Of (write, read) pairs, `alters` has those where an answer was seen to change, `inert` those where it
    never did, and `lagging` those where the first read after the write often differs from the second. `changes` names
    the fields that a write changes.
    """

    writes: frozenset[str]
    readers: Mapping[str, str]
    transient: frozenset[tuple[str, str]]
    historic: frozenset[str]
    alters: frozenset[tuple[str, str]] = frozenset()
    inert: frozenset[tuple[str, str]] = frozenset()
    changes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    lagging: frozenset[tuple[str, str]] = frozenset()

    @property
    def entity_keys(self) -> frozenset[str]:
        return frozenset(self.readers)

    def is_write(self, tool: str) -> bool:
        return tool in self.writes

    def lags(self, tool: str, writes: Iterable[Step]) -> bool:
        """Whether the first answer of a read after these writes can be stale."""
        return any((w.tool, tool) in self.lagging for w in writes)

    def is_reader(self, tool: str) -> bool:
        return tool in self.readers.values()

    def is_transient(self, tool: str, outcome: str) -> bool:
        return (tool, outcome) in self.transient

    def entities(self, arguments: Mapping[str, Any]) -> dict[str, str]:
        """Return the entities that a call names: argument key to id."""
        found = {}
        for key, value in arguments.items():
            if key in self.readers and isinstance(value, str | int) and not isinstance(value, bool):
                found[key] = str(value)
        return found

    def touched(self, arguments: Mapping[str, Any]) -> frozenset[str]:
        """Return the marks of the entities that a call names, to intersect with `Step.mentions`."""
        return frozenset(m for key in self.entities(arguments) for m in entity_marks(key, arguments[key]))

    def bearing(
        self, tool: str, arguments: Mapping[str, Any], answer: Step | None, writes: Iterable[Step]
    ) -> list[Step]:
        """Return the writes that affect a call whose answer, as far as it is known, is `answer`.

        A write that names the call's entity affects it, unless it was seen to change nothing there. A write that only
        shares a mention (an order in a customer's list) affects it if it was seen to change such answers, or if the
        answer has a field that the write changes.
        """
        asked = self.touched(arguments)
        return [w for w in writes if self._bears(w, tool, asked, answer)]

    def _bears(self, write: Step, tool: str, asked: frozenset[str], answer: Step | None) -> bool:
        named = self.touched(write.arguments)
        pair = (write.tool, tool)
        if pair in self.inert:
            return False
        if named & asked:
            return True
        if not write.mentions & asked and not (answer is not None and named & answer.mentions):
            return False
        if self.is_write(tool) or answer is None or pair in self.alters:
            return True
        return bool(self.changes.get(write.tool, frozenset()) & _field_names(answer.content))

    def to_json(self) -> dict[str, Any]:
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        out["changes"] = {tool: sorted(names) for tool, names in self.changes.items()}
        return {k: sorted(v) if isinstance(v, frozenset) else dict(v) for k, v in out.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Effects:
        return cls(
            frozenset(value["writes"]),
            dict(value["readers"]),
            frozenset((tool, outcome) for tool, outcome in value["transient"]),
            frozenset(value["historic"]),
            frozenset((write, read) for write, read in value["alters"]),
            frozenset((write, read) for write, read in value["inert"]),
            {tool: frozenset(names) for tool, names in value["changes"].items()},
            frozenset((write, read) for write, read in value.get("lagging", ())),
        )


def learn_effects(conversations: Sequence[Sequence[Step]]) -> Effects:
    """Learn from conversations, each the ordered list of its answered calls."""
    writes = _learn_writes(conversations)
    readers = _learn_readers(conversations, writes)
    transient = _learn_transient(conversations, writes)
    effects = Effects(writes, readers, transient, _learn_historic(conversations, transient))
    return _with_relations(effects, conversations)


# ----- who writes


@dataclass
class _Evidence:
    changed: int = 0
    unchanged: int = 0
    edits: int = 0
    calls: int = 0

    def says_write(self, tool: str) -> bool:
        if self.edits >= max(2, 0.05 * self.calls) or self.changed >= max(2, 0.05 * self.unchanged):
            return True
        if self.unchanged >= 5 and self.changed == 0 and self.edits == 0:
            return False
        return not is_read_verb(tool)


def is_read_verb(tool: str) -> bool:
    words = re.sub(r"([a-z])([A-Z])", r"\1_\2", tool).lower()
    return re.split(r"[^a-z]+", words)[0] in READ_VERBS


def _learn_writes(conversations: Sequence[Sequence[Step]]) -> frozenset[str]:
    evidence: dict[str, _Evidence] = defaultdict(_Evidence)
    repeating = {tool for tool, n in answered_again(conversations)[0].items() if n >= FEWEST_AGAIN}
    for steps in conversations:
        _weigh_reads(steps, evidence, repeating)
        _weigh_edits(steps, evidence)
        for step in steps:
            evidence[step.tool].calls += step.outcome == OK
    return frozenset(tool for tool, found in evidence.items() if found.says_write(tool))


def answered_again(conversations: Iterable[Sequence[Step]]) -> tuple[Counter[str], set[str]]:
    """How often each tool answered a call, made again in its conversation, as before; and the tools that once did
    otherwise."""
    same: Counter[str] = Counter()
    other: set[str] = set()
    for steps in conversations:
        before: dict[str, str] = {}
        for step in steps:
            if step.key in before:
                alike = step.outcome == OK and before[step.key] == step.content
                same[step.tool] += alike
                if not alike:
                    other.add(step.tool)
            if step.outcome == OK:
                before[step.key] = step.content
    return same, other


def _weigh_reads(steps: Sequence[Step], evidence: Mapping[str, _Evidence], repeating: Set[str]) -> None:
    """Compare repeated reads: a tool that succeeded between two equal calls, on one of their values, changed the answer
    or did not. Where no call between them had such a value, an equal answer says something only of tools that look like
    reads: by their verb, or since they are `repeating`.

    The first read after a write can be stale, so a change is also searched before the previous read.
    """
    reads: dict[str, list[int]] = defaultdict(list)
    for at, step in enumerate(steps):
        if step.outcome == OK:
            reads[step.key].append(at)
    for places in reads.values():
        for k in range(1, len(places)):
            first, second = places[k - 1], places[k]
            if steps[first].content != steps[second].content:
                suspects = _suspects(steps, first, second) or _suspects(steps, places[max(0, k - 2)], second)
                if len(suspects) == 1 and not _others_may(suspects, steps[first:second]):
                    evidence[suspects.pop()].changed += 1
            elif steps[places[-1]].content == steps[first].content:
                others = {s.tool for s in steps[first + 1 : second] if is_read_verb(s.tool) or s.tool in repeating}
                for tool in _suspects(steps, first, second) or others:
                    evidence[tool].unchanged += 1


def _others_may(suspects: set[str], calls: Sequence[Step]) -> bool:
    """Whether the only suspect is a read by its name, and another tool that is none has succeeded as well: the compared
    call itself, or one after it."""
    if not all(map(is_read_verb, suspects)):
        return False
    return any(s.outcome == OK and s.tool not in suspects and not is_read_verb(s.tool) for s in calls)


def _suspects(steps: Sequence[Step], first: int, second: int) -> set[str]:
    """Return the tools that succeeded between two equal reads and named one of their values; if none did, those whose
    answers did and that are no reads by their names."""
    values = {core(text) for _, text in leaves(dict(steps[first].arguments)) if len(text) >= 3}
    between = [s for s in steps[first + 1 : second] if s.outcome == OK and s.tool != steps[first].tool]
    named = {s.tool for s in between if values & {core(text) for _, text in leaves(dict(s.arguments))}}
    return named or {
        s.tool
        for s in between
        if not is_read_verb(s.tool) and values & {core(text) for _, text in content_leaves(s.content)}
    }


def _weigh_edits(steps: Sequence[Step], evidence: Mapping[str, _Evidence]) -> None:
    """Compare an answer that repeats another tool's observation of the same entity with some fields changed."""
    known: dict[str, tuple[str, dict[str, Any]]] = {}
    for step in steps:
        body = _record(step.content) if step.outcome == OK else None
        if body is None:
            continue
        for _, text in leaves(dict(step.arguments)):
            if not is_identifier(text) and len(text) < 4:
                continue
            earlier = known.get(text)
            if earlier and earlier[0] != step.tool and _is_edit(earlier[1], body):
                evidence[step.tool].edits += not is_read_verb(step.tool)
            known[text] = (step.tool, body)


def _record(content: str) -> dict[str, Any] | None:
    try:
        value = json.loads(content)
    except ValueError:
        return None
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    return value if isinstance(value, dict) and len(value) >= 3 else None


def _is_edit(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    shared = old.keys() & new.keys()
    same = sum(old[k] == new[k] for k in shared)
    return len(shared) >= 0.6 * len(old.keys() | new.keys()) and len(new) / 2 < same < len(
        old.keys() | new.keys()
    )


# ----- who reads an entity


def _learn_readers(conversations: Sequence[Sequence[Step]], writes: frozenset[str]) -> dict[str, str]:
    uses: dict[str, Counter[str]] = defaultdict(Counter)
    sole: dict[tuple[str, str], list[Step]] = defaultdict(list)
    for step in (s for steps in conversations for s in steps):
        for key in step.arguments:
            uses[key][step.tool] += 1
        if len(step.arguments) == 1 and step.tool not in writes and step.outcome == OK:
            sole[(next(iter(step.arguments)), step.tool)].append(step)
    candidates: dict[str, list[tuple[float, int, str]]] = defaultdict(list)
    for (key, tool), steps in sole.items():
        fit = _reads_entity(key, steps)
        if fit > 0 and (len(uses[key]) > 1 or _names_itself(key, steps)):
            candidates[key].append((fit, len(steps), tool))
    return {key: max(found)[2] for key, found in sorted(candidates.items())}


def _reads_entity(key: str, steps: Sequence[Step]) -> float:
    """Return the degree to which a tool's answers look like the record that its one argument names; 0 if they do not.
    """
    records = [(s, _record(s.content)) for s in steps]
    objects = sum(r is not None for _, r in records)
    texts = [str(s.arguments[key]) for s in steps]
    if objects < 0.8 * len(steps) or sum(map(is_identifier, texts)) < 0.8 * len(texts):
        return 0.0
    if len(set(texts)) < min(3, len(texts)):
        return 0.0
    return 1 + _names_itself(key, steps)


def _names_itself(key: str, steps: Sequence[Step]) -> float:
    """Return the share of answers that have the argument's value at their top level."""
    hits = 0
    for step in steps:
        record = _record(step.content) or {}
        value = core(str(step.arguments[key]))
        hits += any(isinstance(v, str | int) and core(str(v)) == value for v in record.values())
    return hits / len(steps) if steps else 0.0


# ----- errors that pass by themselves, and errors that come from haste


def _learn_transient(
    conversations: Sequence[Sequence[Step]], writes: frozenset[str]
) -> frozenset[tuple[str, str]]:
    """An outcome is transient if the same call, repeated without a write in between, mostly ends otherwise."""
    repeated: Counter[tuple[str, str]] = Counter()
    changed: Counter[tuple[str, str]] = Counter()
    seen: set[tuple[str, str]] = set()
    for steps in conversations:
        last: dict[str, Step] = {}
        for step in steps:
            seen.add((step.tool, step.outcome))
            before = last.get(step.key)
            if before is not None and before.outcome != OK:
                repeated[(step.tool, before.outcome)] += 1
                changed[(step.tool, before.outcome)] += before.outcome != step.outcome
            last[step.key] = step
            if step.tool in writes and step.outcome == OK:
                last = {step.key: step}
    return frozenset(
        pair for pair in seen if pair[1] != OK and _passes(pair[1], repeated[pair], changed[pair])
    )


def _passes(outcome: str, repeated: int, changed: int) -> bool:
    """A Beta prior from the name, worth four repetitions, updated with the data."""
    prior = 0.9 if TRANSIENT_NAMES.search(outcome.lower()) else 0.1
    return (changed + 4 * prior) / (repeated + 4) > 0.5


def _learn_historic(
    conversations: Sequence[Sequence[Step]], transient: frozenset[tuple[str, str]]
) -> frozenset[str]:
    """Return the tools whose transient errors depend on the number of recent calls (a G-test per tool)."""
    tables: dict[str, Counter[tuple[int, bool]]] = defaultdict(Counter)
    for steps in conversations:
        for at, step in enumerate(steps):
            recent = sum(s.tool == step.tool for s in steps[max(0, at - TRAIL) : at])
            tables[step.tool][(min(recent, 4), (step.tool, step.outcome) in transient)] += 1
    return frozenset(tool for tool, table in tables.items() if _depends(table))


def _depends(table: Mapping[tuple[int, bool], int]) -> bool:
    rows: Counter[int] = Counter()
    columns: Counter[bool] = Counter()
    for (row, column), n in table.items():
        rows[row] += n
        columns[column] += n
    total = sum(rows.values())
    if len(columns) < 2 or len(rows) < 2:
        return False
    g = 2 * sum(n * math.log(n * total / (rows[r] * columns[c])) for (r, c), n in table.items() if n)
    return g > 12 + 2 * (len(rows) - 1)  # about p < 0.001 for one to four degrees of freedom


# ----- which writes change which answers

NEVER = 5
"""So many unchanged answers, and not one changed, make a pair inert."""


def _with_relations(effects: Effects, conversations: Sequence[Sequence[Step]]) -> Effects:
    changed: Counter[tuple[str, str]] = Counter()
    unchanged: Counter[tuple[str, str]] = Counter()
    named: dict[str, Counter[str]] = defaultdict(Counter)
    for steps in conversations:
        last: dict[str, int] = {}
        for at, step in enumerate(steps):
            if step.outcome != OK:
                continue
            before = last.get(step.key)
            last[step.key] = at
            if effects.is_write(step.tool):
                _count_fields(named[step.tool], _record_before(steps, at, effects), step)
            elif before is not None:
                _weigh_pair(effects, steps, before, at, changed, unchanged, named)
    inert = frozenset(pair for pair, n in unchanged.items() if n >= NEVER and not changed[pair])
    changes = {
        tool: frozenset(name for name, n in found.items() if n >= 2) for tool, found in sorted(named.items())
    }
    related = replace(effects, alters=frozenset(changed), inert=inert, changes=changes)
    return replace(related, lagging=_learn_lagging(related, conversations))


def _learn_lagging(effects: Effects, conversations: Sequence[Sequence[Step]]) -> frozenset[tuple[str, str]]:
    """Return the pairs in which at least one of five second reads after the write differs from the first."""
    twice: Counter[tuple[str, str]] = Counter()
    differ: Counter[tuple[str, str]] = Counter()
    for steps in conversations:
        first: dict[str, Step | None] = {}
        done: list[Step] = []
        for step in (s for s in steps if s.outcome == OK):
            if effects.is_write(step.tool):
                done.append(step)
                first.clear()
                continue
            related = effects.bearing(step.tool, step.arguments, step, done)
            if related and step.key not in first:
                first[step.key] = step
            elif related and (before := first[step.key]) is not None:
                pair = (related[-1].tool, step.tool)
                twice[pair] += 1
                differ[pair] += before.content != step.content
                first[step.key] = None  # a third read says nothing about the first
    return frozenset(pair for pair, n in differ.items() if n >= max(2, 0.2 * twice[pair]))


def _weigh_pair(
    effects: Effects,
    steps: Sequence[Step],
    before: int,
    at: int,
    changed: Counter[tuple[str, str]],
    unchanged: Counter[tuple[str, str]],
    named: Mapping[str, Counter[str]],
) -> None:
    """Compare two answers of one read. A change is due to the writes since the previous read, or, as the first read
    after a write can be stale, to the write before that."""
    old, new = steps[before], steps[at]
    same = old.content == new.content
    between = successful_writes(steps[before:at] if same else steps[:at], effects)
    asked = effects.touched(old.arguments)
    related = [w for w in between if effects.touched(w.arguments) & (asked | old.mentions) or w.mentions & asked]
    tools = {w.tool for w in related}
    if same:
        later = any(s.key == new.key and s.outcome == OK and s.content != new.content for s in steps[at:])
        unchanged.update((tool, new.tool) for tool in tools if not later)
    elif len(tools) == 1:
        changed[(related[-1].tool, new.tool)] += 1
        _count_fields(named[related[-1].tool], old, new)


def _record_before(steps: Sequence[Step], at: int, effects: Effects) -> Step | None:
    asked = effects.touched(steps[at].arguments)
    known = (s for s in reversed(steps[:at]) if s.outcome == OK and effects.touched(s.arguments) & asked)
    return next(known, None)


def _count_fields(counts: Counter[str], old: Step | None, new: Step) -> None:
    before, after = (_record(old.content) if old else None), _record(new.content)
    if before and after and _is_edit(before, after):
        counts.update(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))


def _field_names(content: str) -> frozenset[str]:
    """Return all keys in a JSON body, at any depth."""
    try:
        value = json.loads(content)
    except ValueError:
        return frozenset()
    found: set[str] = set()
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, dict):
            found.update(inner)
            waiting.extend(inner.values())
        elif isinstance(inner, list):
            waiting.extend(inner)
    return frozenset(found)


def successful_writes(steps: Iterable[Step], effects: Effects) -> list[Step]:
    return [s for s in steps if s.outcome == OK and effects.is_write(s.tool)]
