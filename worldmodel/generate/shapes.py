"""Statistics of values, learned without a model: per record type, per open answer, and which texts are private.

`Shapes` is the input of inventing. It contains no record of a training conversation: texts of one conversation are
stored as hashes, so that a generated answer that repeats one is detected and replaced.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import msgspec
import xxhash

from worldmodel.derive.engine import Engine
from worldmodel.derive.schema import EPISODE
from worldmodel.derive.values import ABSENT, UNKNOWN, freeze, is_scalar, parse, same
from worldmodel.generate.values import COMMON, Values, draw, kind_of, learn_values
from worldmodel.steps import OK, Step, leaves, words_of

MOST_SIGHTINGS = 800
MOST_SKELETONS = 480
ALIKE, FEWEST_ALIKE, FEWEST_NEAR = 32, 12, 3
"""A new record is drawn from so many records of conversations that were begun alike: a quarter of all, within these; of
fewer, if the others are less than half as much alike."""
MOST_ANSWERS, LONGEST_ANSWER = 320, 3000
UNKEPT = "\x00"
FEWEST_UNTOUCHED = 8
"""Records seen before a call changed them, from which on only these say how a record is that nobody has seen."""
LONG_ENOUGH = 4
"""Shorter texts are never private: they are seen everywhere."""
MOST_WORDS = 60
REMEMBERED = 512
"""First messages whose likeness to the recorded ones is kept in memory."""
NO_MESSAGES: Mapping[str, str] = MappingProxyType({})
Found = tuple[str, dict[str, Any]]
"""A conversation, and the fields of a record that it showed."""
Read = Callable[[str, str], Any]
"""The value of an answer, from its tool and its content."""


class Skeleton(msgspec.Struct):
    """The fields of one record: common values as they are, and only the JSON type of other values."""

    kept: dict[str, Any] = {}
    kinds: dict[str, str] = {}
    words: list[str] = []
    """Common words of the first message of the conversation that showed it."""


class Answered(msgspec.Struct):
    """One whole answer: common values as they are, and `{UNKEPT: JSON type}` in place of other values. `arguments` are
    the call's common ones, `words` those of the first message of the conversation."""

    body: Any
    arguments: dict[str, Any] = {}
    words: list[str] = []


class Shapes(msgspec.Struct, dict=True):
    """Value statistics by record type and field, and by tool and outcome class."""

    fields: dict[str, dict[str, Values]] = {}
    skeletons: dict[str, list[Skeleton]] = {}
    bodies: dict[str, dict[str, Values]] = {}
    """By tool, then by outcome class: whole answers."""
    arguments: dict[str, dict[str, Values]] = {}
    """By tool, the values of each argument."""
    answers: dict[str, list[Answered]] = {}
    """By tool, whole answers with lists in them, given before anything was changed."""
    opened: dict[str, Values] = {}
    """By tool of `answers`: the values of such answers, with objects in place of texts that hold several values."""
    private: frozenset[int] = frozenset()
    """Hashes of the texts that fewer than three conversations show."""
    missing: dict[str, list[str]] = {}
    """By tool, the outcomes after which no call of the conversation ever found the record that was named."""
    moved: dict[str, dict[str, list[Any]]] = {}
    """By record type and field that a write changes: the common values that are only seen after a write."""
    implicit: dict[str, dict[str, float]] = {}
    """By tool, the rates of answers that are quietly wrong (worldmodel.control.KINDS)."""

    def missing_outcomes(self) -> set[str]:
        """The outcomes by which some tool says that a record does not exist."""
        return {outcome for outcomes in self.missing.values() for outcome in outcomes}

    def is_private(self, text: str) -> bool:
        """Whether a text occurred in too few conversations to be common."""
        return len(text) >= LONG_ENOUGH and _hash(text) in self.private

    def alike(self, type_: str, about: str) -> Sequence[Skeleton]:
        """The records seen in the conversations whose users began most like `about`. What a user wants with a record
        says something of it: who asks to cancel seldom means what has arrived."""
        if type_ not in self._records:
            self._records[type_] = _Likeness(self.skeletons.get(type_, ()))
        return self._records[type_].nearest(about)

    @cached_property
    def _records(self) -> dict[str, _Likeness[Skeleton]]:
        return {}

    @cached_property
    def _answers(self) -> dict[str, _Likeness[Answered]]:
        return {}

    def answer(self, tool: str, arguments: Mapping[str, Any], about: str, rng: random.Random) -> Any:
        """Draw a whole answer like one that production gave to such a call, of a user who began like `about`: what a
        list holds fits what was wanted. UNKNOWN for a tool without such answers."""
        if tool not in self._answers:
            self._answers[tool] = _Likeness(self.answers.get(tool, ()))
        options = self._answers[tool].nearest(about)
        if not options:
            return UNKNOWN
        fits_ = [sum(same(arguments.get(name), v) for name, v in one.arguments.items()) for one in options]
        best = [one for one, n in zip(options, fits_, strict=True) if n == max(fits_)]
        return self._refilled(best[rng.randrange(len(best))].body, self.opened[tool], rng)

    def _refilled(self, body: Any, values: Values, rng: random.Random) -> Any:
        if isinstance(body, list):
            return [self._refilled(item, values.items or values, rng) for item in body]
        if isinstance(body, dict) and UNKEPT in body:
            return self.fresh(msgspec.structs.replace(values, common=[]), rng, body[UNKEPT])
        if isinstance(body, dict):
            return {name: self._refilled(inner, values.fields[name], rng) for name, inner in body.items()}
        return body

    def record(self, type_: str, rng: random.Random, options: Sequence[Skeleton] | None = None) -> dict[str, Any]:
        """Return the fields of a new record: the common values of one of the real records, and new values for the other
        fields. `options`: of these only, which `alike` returned."""
        fields = self.fields.get(type_, {})
        options = self.skeletons.get(type_, ()) if options is None else options
        if not options:
            return {name: self.fresh(values, rng) for name, values in fields.items()}
        chosen = options[rng.randrange(len(options))]
        out = {}
        for name, values in fields.items():
            if name in chosen.kept:
                out[name] = chosen.kept[name]
            elif name in chosen.kinds:
                out[name] = self.fresh(values, rng, chosen.kinds[name])
            else:
                out[name] = ABSENT
        return out

    def unchanged(self, type_: str, record: Mapping[str, Any]) -> bool:
        """Whether no field of a record has a value that only a write gives it."""
        return not any(record.get(name, ABSENT) in values for name, values in self.moved.get(type_, {}).items())

    def fresh(self, values: Values, rng: random.Random, kind: str = "") -> Any:
        """Draw a value without private texts."""
        for _ in range(8):
            value = draw(values, rng, kind)
            if value is ABSENT or not any(self.is_private(text) for _, text in leaves(value)):
                return value
        return self.cleaned(value, rng)

    def cleaned(self, value: Any, rng: random.Random) -> Any:
        """Return a value in which every private text is replaced letter by letter."""
        if isinstance(value, dict):
            return {name: self.cleaned(inner, rng) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.cleaned(inner, rng) for inner in value]
        for _ in range(20):
            if not isinstance(value, str) or not self.is_private(value):
                break
            value = "".join(_other(char, rng) for char in value)
        return value


T = TypeVar("T", Skeleton, Answered)


class _Likeness(Generic[T]):
    """Finds those of some conversations that were begun most like another one. Words count by how rare they are."""

    def __init__(self, options: Sequence[T]) -> None:
        self._options: Sequence[T] = options
        spread = Counter(word for one in options for word in one.words)
        self._weight = {word: math.log(len(options) / n) ** 2 for word, n in spread.items()}
        self._whole = [math.sqrt(sum(self._weight[word] for word in one.words)) for one in options]
        self._known: dict[str, Sequence[T]] = {}

    def nearest(self, about: str) -> Sequence[T]:
        """The conversations that were begun most like `about`; all of them where that says nothing."""
        if about not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[about] = self._nearest(words_of(about))
        return self._known[about]

    def _nearest(self, wanted: Collection[str]) -> Sequence[T]:
        options = self._options
        if not any(self._weight.get(word) for word in wanted):
            return options
        scores = [
            sum(self._weight[word] for word in one.words if word in wanted) / whole if whole else 0.0
            for one, whole in zip(options, self._whole, strict=True)
        ]
        falling = sorted(scores, reverse=True)
        most = min(len(options), ALIKE, max(FEWEST_ALIKE, len(options) // 4))
        near = [found for found in falling[:most] if found >= 0.5 * falling[0]]
        least = near[-1] if len(near) >= FEWEST_NEAR else falling[most - 1]
        return [one for one, found in zip(options, scores, strict=True) if found >= least]


def _other(char: str, rng: random.Random) -> str:
    for letters in ("0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"):
        if char in letters:
            return rng.choice(letters)
    return char


def as_json(tool: str, content: str) -> Any:
    """Return the JSON value of an answer, else its text."""
    return parse(content)


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode()) >> 1  # msgspec's integers are signed


# ----- learning


def learn_shapes(
    engine: Engine, conversations: Mapping[str, Sequence[Step]], users: Mapping[str, str] = NO_MESSAGES
) -> Shapes:
    """Learn from recorded conversations, in one pass over their answers. `users` has their users' first messages."""
    found: dict[tuple[str, str], list[tuple[str, Any]]] = defaultdict(list)
    bodies: dict[tuple[str, str], list[tuple[str, Any]]] = defaultdict(list)
    told: dict[tuple[str, str], list[tuple[str, Any]]] = defaultdict(list)
    records: dict[str, list[Found]] = defaultdict(list)
    untouched: dict[str, list[Found]] = defaultdict(list)
    first: dict[tuple[str, str], set[Any]] = defaultdict(set)
    fullest = _fullest(engine)
    changed = {(effect.type, effect.field) for rules in engine.rules.tools.values() for effect in rules.effects}
    read = engine.layout.read
    for cid, steps in conversations.items():
        session, touched = engine.session(), set[tuple[str, Any]]()
        for step in steps:
            body = parse(step.content)
            into = bodies[(step.tool, step.outcome)]
            if len(into) < MOST_SIGHTINGS:
                into.append((cid, body))
                for name, value in step.arguments.items():
                    told[(step.tool, name)].append((cid, value))
            if step.outcome != OK:
                continue
            one: dict[tuple[str, Any], dict[str, Any]] = defaultdict(dict)
            writes = engine.wrote(step.tool, step.content, step.outcome)
            if writes:
                touched.update(named_alone(engine, session.situation(step.tool, step.arguments)))
            seen = read(step.tool, step.content)
            for type_, key, name, value in session.store.shown(step.tool, step.arguments, seen):
                if type_ != EPISODE and len(found[(type_, name)]) < MOST_SIGHTINGS:
                    found[(type_, name)].append((cid, value))
                    one[(type_, key)][name] = value
            for mark, fields in one.items():
                if writes:
                    touched.add(mark)
                if mark not in touched:
                    for name, value in fields.items():
                        if (mark[0], name) in changed and is_scalar(value):
                            first[mark[0], name].add(freeze(value))
                if len(fields) < fullest.get(mark[0], 0):  # a list that shows some fields says nothing of the others
                    continue
                for kept in (records[mark[0]], *([untouched[mark[0]]] if mark not in touched else [])):
                    if len(kept) < MOST_SKELETONS:
                        kept.append((cid, fields))
    words = _common_words({cid: users.get(cid, "") for cid in conversations})
    shapes = Shapes(missing=learn_missing(engine, conversations), private=private_texts(conversations, read))
    for (type_, name), sightings in found.items():
        shapes.fields.setdefault(type_, {})[name] = learn_values(sightings)
    for (tool, outcome), sightings in bodies.items():
        shapes.bodies.setdefault(tool, {})[outcome] = learn_values(sightings)
    for (tool, name), sightings in told.items():
        shapes.arguments.setdefault(tool, {})[name] = learn_values(sightings[:MOST_SIGHTINGS])
    _learn_answers(shapes, engine, conversations, words)
    for type_, some in records.items():
        as_found = untouched.get(type_, [])
        enough = len(as_found) >= FEWEST_UNTOUCHED
        fields = shapes.fields[type_]
        shapes.skeletons[type_] = [
            _skeleton(record, fields, words.get(cid, [])) for cid, record in (as_found if enough else some)
        ]
        for name, values in fields.items() if enough else ():
            if seen := first.get((type_, name)):
                common = [v for v, _ in values.common if isinstance(v, str | bool)]
                if moved := [v for v in common if freeze(v) not in seen]:
                    shapes.moved.setdefault(type_, {})[name] = moved
    return shapes


def _learn_answers(
    shapes: Shapes, engine: Engine, conversations: Mapping[str, Sequence[Step]], words: Mapping[str, list[str]]
) -> None:
    """Learn whole answers of the tools that change nothing and that answer with lists."""
    found: dict[str, list[tuple[str, Step, Any]]] = defaultdict(list)
    changing = {tool for tool, rules in engine.rules.tools.items() if rules.effects}
    for cid, steps in conversations.items():
        for step in steps:
            if step.outcome == OK and step.tool in changing:
                break
            if step.outcome == OK and len(found[step.tool]) < MOST_ANSWERS and len(step.content) < LONGEST_ANSWER:
                found[step.tool].append((cid, step, engine.layout.opened(step.tool, step.content)))
    for tool, of_tool in found.items():
        lists = [body for _, _, body in of_tool if _has_list(body)]
        if len(of_tool) < FEWEST_UNTOUCHED or len(lists) < 0.5 * len(of_tool):
            continue
        values = learn_values([(cid, body) for cid, _, body in of_tool])
        usual = {name: {freeze(v) for v, _ in some.common} for name, some in shapes.arguments.get(tool, {}).items()}
        shapes.opened[tool] = values
        shapes.answers[tool] = [
            Answered(
                body,
                {n: v for n, v in step.arguments.items() if is_scalar(v) and freeze(v) in usual.get(n, ())},
                words.get(cid, []),
            )
            for cid, step, full in of_tool
            if isinstance(full, dict | list) and (body := _kept(full, values)) is not None
        ]


def _has_list(body: Any) -> bool:
    values = body.values() if isinstance(body, dict) else ()
    return isinstance(body, list) or any(isinstance(value, list) or _has_list(value) for value in values)


def _kept(value: Any, values: Values) -> Any:
    """A value with common parts as they are; None for one with parts that have no statistics."""
    if isinstance(value, list):
        items = [_kept(item, values.items) if values.items else None for item in value]
        return None if any(item is None for item in items) else items
    if isinstance(value, dict):
        fields = {name: _kept(inner, values.fields[name]) for name, inner in value.items() if name in values.fields}
        return None if UNKEPT in value or any(inner is None for inner in fields.values()) else fields
    if any(kind_of(v) == kind_of(value) and v == value for v, _ in values.common):
        return value if value is not None else {UNKEPT: "null"}
    return {UNKEPT: kind_of(value)}


def _fullest(engine: Engine) -> dict[str, int]:
    """By record type, how many fields the tool shows that shows the most of it."""
    found: dict[str, int] = {}
    for site in engine.rules.schema.sites:
        found[site.type] = max(found.get(site.type, 0), len(site.fields))
    return found


def _common_words(users: Mapping[str, str]) -> dict[str, list[str]]:
    """By conversation, the words of its user's first message that at least three conversations have there."""
    found = {cid: words_of(text) for cid, text in users.items() if text}
    spread = Counter(word for words in found.values() for word in words)
    return {cid: sorted(word for word in words if spread[word] >= COMMON)[:MOST_WORDS] for cid, words in found.items()}


def _skeleton(record: Mapping[str, Any], fields: Mapping[str, Values], words: list[str]) -> Skeleton:
    out = Skeleton(words=words)
    for name, value in record.items():
        common = [v for v, _ in fields[name].common]
        if any(kind_of(v) == kind_of(value) and v == value for v in common):
            out.kept[name] = value
        elif value is not ABSENT:
            out.kinds[name] = kind_of(value)
    return out


def private_texts(conversations: Mapping[str, Sequence[Step]], read: Read = as_json) -> frozenset[int]:
    """Return hashes of all texts in answers and arguments that occur in fewer than three conversations."""
    owners: dict[int, set[str] | None] = {}
    for cid, steps in conversations.items():
        for text in {t for step in steps for t in texts_of(step, read)}:
            mark = _hash(text)
            known = owners.get(mark, set())
            if known is not None:
                owners[mark] = None if len(known) + 1 >= COMMON and cid not in known else known | {cid}
    return frozenset(mark for mark, known in owners.items() if known is not None)


def texts_of(step: Step, read: Read = as_json) -> Iterable[str]:
    """Return the texts of a call and its answer that can be private. `read` returns the value of a tool's answer: with
    `Layout.read`, what stands in the gaps of its sentences, and in texts that hold several values, is looked at too."""
    plain, body = parse(step.content), read(step.tool, step.content)
    bodies = [one for one in (body, *([] if plain == body else [plain])) if isinstance(one, dict | list)]
    values = [*leaves(dict(step.arguments)), *(leaf for one in bodies for leaf in leaves(one))]
    return (text for _, text in values if len(text) >= LONG_ENOUGH and not _is_plain_number(text))


def _is_plain_number(text: str) -> bool:
    return len(text) < 6 and text.replace(".", "", 1).lstrip("-").isdigit()


def learn_missing(engine: Engine, conversations: Mapping[str, Sequence[Step]]) -> dict[str, list[str]]:
    """Per reading tool, the lasting errors that mean that the named record does not exist: it was never found after
    them, and before them only if it was written in between."""
    denied: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for steps in conversations.values():
        session = engine.session()
        named = []
        seen = set[tuple[str, tuple[str, ...]]]()
        for step in steps:
            situation = session.situation(step.tool, step.arguments)
            marks = frozenset(named_alone(engine, situation))
            named.append((marks, bool(marks & seen)))
            if step.outcome == OK:
                wrote = engine.wrote(step.tool, step.content, step.outcome)
                seen = seen - marks if wrote else seen | marks
            session.told(step.tool, step.arguments, step.content, step.outcome)
        found = set[tuple[str, tuple[str, ...]]]()
        for step, (marks, before) in zip(reversed(steps), reversed(named), strict=True):
            if step.outcome == OK:
                found |= marks
            elif step.tool not in engine.writes and not engine.passes(step.tool, step.outcome) and marks:
                denied[(step.tool, step.outcome)][before or bool(marks & found)] += 1
    out: dict[str, list[str]] = defaultdict(list)
    for (tool, outcome), (never, later) in sorted(denied.items()):
        if never >= 2 and later <= 0.02 * never:
            out[tool].append(outcome)
    return dict(out)


def named_alone(engine: Engine, situation: Any) -> list[tuple[str, tuple[str, ...]]]:
    """Return the (type, key) of the records that a call itself names and that are read one by one."""
    out = []
    for link in situation.links:
        key = situation.keys.get(link.name)
        if key and engine.layout.alone(link.type) and all(part.source.startswith("arg/") for part in link.keys):
            out.append((link.type, key))
    return out
