"""What writes change in records that their own answers do not show, learned from later reads."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

from worldmodel.derive.expressions import Source, evaluate
from worldmodel.derive.rules import Effect
from worldmodel.derive.schema import EPISODE
from worldmodel.derive.situation import Row
from worldmodel.derive.templates import SAYS, Sentence, says_of
from worldmodel.derive.values import UNKNOWN, freeze, is_scalar, key_of, parse
from worldmodel.learn.paths import is_explained, learn_paths
from worldmodel.learn.recipes import find
from worldmodel.learn.rows import PRECISION, Mark, Recorded, Rows, Sighting, Sightings, sightings_of

FEWEST = 3
RATE = 0.04
BONUS = 0.3
"""How much a tool that looks like one that writes is preferred to another that explains as many changes."""
SHOWS = "shows "


def learn_effects(
    conversations: Mapping[str, Sequence[Recorded]], likely: frozenset[str], followed: bool = False
) -> tuple[dict[str, list[Effect]], set[str]]:
    """The effects of each tool, and the tools whose own answers show a change. Tools that are not `likely` to write
    need more evidence. Where the recordings are `followed`, the effects known so far have been applied: what a write
    found is known also after another write."""
    seen = {cid: sightings_of(recorded) for cid, recorded in conversations.items()}
    effects, explained = learn_paths(conversations, seen)
    writers, own = _find_writers(conversations, seen, likely, explained)
    for (type_, field), tools in writers.items():
        showing = {tool[len(SHOWS) :] for tool in tools if tool.startswith(SHOWS)}
        silent = [tool for tool in tools if not tool.startswith(SHOWS)]
        changing = likely | set(silent)
        found = [(tool, effect) for tool in silent for effect in
                 _effects_of(tool, type_, field, silent, showing, changing, conversations, seen, followed)]  # fmt: skip
        late = any(effect.lag for _, effect in found)  # then what seems to change unforeseeably was shown late
        for tool, effect in found:
            effects[tool] += [] if late and effect.support == 0 else [effect]
    return effects, own


def learn_inert(
    conversations: Mapping[str, Sequence[Recorded]], texts: Mapping[str, Sequence[Sentence]], fewest: int = 2
) -> dict[str, tuple[str, ...]]:
    """By tool, the sentences after which no field of a record that the call names had changed, in `fewest` calls or
    more, of a tool that has others after which one had: it says so where it refuses."""
    known = {tool: {says_of(sentence) for sentence in found} for tool, found in texts.items()}
    kept: Counter[tuple[str, str]] = Counter()
    changed: Counter[tuple[str, str]] = Counter()
    for one, did in _alone(conversations, known.keys()):
        tool, says = one.step.tool, one.answer.get(f"ans/{SAYS}")
        if isinstance(says, str) and says in known[tool]:
            (changed if did else kept)[(tool, says)] += 1
    acting = {tool for tool, _ in changed}
    found: dict[str, list[str]] = defaultdict(list)
    for tool, says in sorted(kept):
        if tool in acting and kept[(tool, says)] >= max(fewest, 10 * changed[(tool, says)]):
            found[tool].append(says)
    return {tool: tuple(said) for tool, said in found.items()}


def learn_bodied(
    conversations: Mapping[str, Sequence[Recorded]], tools: Set[str], writes: Set[str], fewest: int = 2
) -> tuple[str, ...]:
    """The tools whose sentences are refusals, among `tools` that answer with objects and now and then with a sentence:
    later answers of tools outside `writes` show that such a call had changed nothing in the records that it names."""
    counts: dict[str, Counter[bool]] = defaultdict(Counter)
    for one, did in _alone(conversations, tools, writes):
        if isinstance(parse(one.step.content), str):
            counts[one.step.tool][did] += 1
    return tuple(sorted(tool for tool, n in counts.items() if n[False] >= max(fewest, 10 * n[True])))


def _alone(
    conversations: Mapping[str, Sequence[Recorded]], tools: Container[str], but: Container[str] = ()
) -> Iterator[tuple[Recorded, bool]]:
    """The calls of tools that alone named a record between two sightings, and whether a field differs in these. The
    second sighting is not that of a tool in `but`."""
    for recorded in conversations.values():
        between: dict[int, list[bool]] = defaultdict(list)
        for (mark, _), sightings in sightings_of(recorded).items():
            for before, after in zip(sightings, sightings[1:], strict=False):
                since = [r for r in recorded[before.at + 1 : after.at] if r.acted and mark in r.marks and mark[1]]
                if len(since) == 1 and since[0].step.tool in tools and after.tool not in but:
                    between[since[0].at].append(freeze(before.value) != freeze(after.value))
        for at, changes in between.items():
            yield recorded[at], any(changes)


def _find_writers(
    conversations: Mapping[str, Sequence[Recorded]],
    seen: Mapping[str, Sightings],
    likely: frozenset[str],
    explained: set[tuple[str, str]],
) -> tuple[dict[tuple[str, str], list[str]], set[str]]:
    """By (type, field): the tools that explain why its values change between two sightings. One whose own answers show
    what it has changed is marked with `SHOWS`."""
    between: dict[tuple[str, str], list[tuple[frozenset[str], bool]]] = defaultdict(list)
    named: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    own_changed: dict[str, set[tuple[str, int]]] = defaultdict(set)
    own_seen: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for cid, recorded in conversations.items():
        for (mark, field), sightings in seen[cid].items():
            if explained and is_explained(explained, mark[0], field):
                continue
            for before, after in zip(sightings, sightings[1:], strict=False):
                if field == SAYS and after.tool != before.tool:  # each tool has sentences of its own
                    continue
                changed = freeze(before.value) != freeze(after.value)
                tools = _linked(recorded, mark, before.at, after.at)
                if before.tool == after.tool and after.tool in likely and likely.isdisjoint(tools):
                    continue  # what a write says of itself, each time: no read has changed it
                others = _acting(recorded, likely, before.at, after.at) - set(tools)
                if changed and others and likely.isdisjoint({*tools, after.tool}):
                    continue  # a write that is not seen to lead there rather than a tool that is none
                if not changed or not tools:
                    own_seen[after.tool].add((cid, after.at))
                if changed and not tools:
                    wrote = _linked(recorded, mark, -1, before.at)  # a change that the first read did not show
                    late = [tool for tool in wrote if tool in likely and not {before.tool, after.tool} & likely]
                    if after.tool != before.tool and not late:
                        own_changed[after.tool].add((cid, after.at))
                        continue
                    tools = late[-1:] or wrote[-1:]
                said = _naming(recorded[before.at + 1 : after.at], before.value, after.value) if changed else set()
                if said & set(tools):
                    tools = [tool for tool in tools if tool in said]
                    named[(mark[0], field)].update(set(tools))
                own_change = mark[0] == EPISODE and _tells(recorded, after)
                own_change = own_change or mark[0] != EPISODE and after.tool in likely and after.tool != before.tool
                shows = {SHOWS + after.tool} if tools and own_change else set()
                between[(mark[0], field)].append((frozenset({*tools, *shows}), changed))
    shown = frozenset(SHOWS + tool for tool in likely)
    writers = {
        place: _cover(rows, likely | shown | {tool for tool, n in named[place].items() if n >= FEWEST})
        for place, rows in between.items()
    }
    own = {tool for tool, calls in own_changed.items()
           if len(calls) >= (2 if tool in likely else 5)
           and len(calls) >= (RATE if tool in likely else 0.5) * len(own_seen[tool])}  # fmt: skip
    return {place: tools for place, tools in writers.items() if tools}, own


def _naming(between: Sequence[Recorded], old: Any, new: Any) -> set[str]:
    """The tools whose calls name what a list has gained or lost."""
    if not isinstance(old, list) or not isinstance(new, list):
        return set()
    changed = {freeze(v) for v in old} ^ {freeze(v) for v in new}
    return {one.step.tool for one in between if one.acted
            and any(is_scalar(v) and freeze(v) in changed for v in one.step.arguments.values())}  # fmt: skip


def _tells(recorded: Sequence[Recorded], after: Sighting) -> bool:
    """Whether what an answer shows is, or holds, what its call said."""
    said = (text for v in recorded[after.at].step.arguments.values() if is_scalar(v) and (text := key_of(v)))
    shown = key_of(after.value)
    return shown is not None and any(text == shown or len(text) >= 3 and text in shown for text in said)


def _linked(recorded: Sequence[Recorded], mark: Mark, after: int, before: int) -> list[str]:
    return [
        one.step.tool
        for one in recorded[after + 1 : before]
        if one.acted and (mark in one.marks or mark[0] == EPISODE)
    ]


def _acting(recorded: Sequence[Recorded], likely: frozenset[str], after: int, before: int) -> set[str]:
    return {one.step.tool for one in recorded[after + 1 : before] if one.acted and one.step.tool in likely}


def _cover(rows: Sequence[tuple[frozenset[str], bool]], likely: frozenset[str]) -> list[str]:
    """Tools, the one after whose calls values change most often first, until all changes are explained."""
    chosen: list[str] = []
    left = [(tools, changed) for tools, changed in rows if tools]
    while len(chosen) < 12:
        changed: Counter[str] = Counter()
        kept: Counter[str] = Counter()
        for tools, did in left:
            (changed if did else kept).update(tools)
        score = {
            t: n / (n + kept[t] + 1) + BONUS * (t in likely)
            for t, n in changed.items()
            if n >= (2 if t in likely else 5) and n >= (RATE if t in likely else 0.5) * (n + kept[t])
        }
        if not score:
            break
        best = max(sorted(score), key=lambda t: score[t])
        chosen.append(best)
        left = [(tools, did) for tools, did in left if best not in tools]
    return chosen


def _effects_of(
    tool: str, type_: str, field: str, writers: Sequence[str], showing: set[str], changing: Set[str],
    conversations: Mapping[str, Sequence[Recorded]], seen: Mapping[str, Sightings], followed: bool,
) -> list[Effect]:  # fmt: skip
    """The effect of one tool on one field, through each link by which the tool reaches it; `showing` are the tools that
    change the field themselves and show it. What is in the items of a list is also changed by others, `changing`."""
    rows: dict[str, list[_Given]] = defaultdict(list)
    for cid, recorded in conversations.items():
        for one in recorded:
            if one.step.tool != tool or not one.acted:
                continue
            for mark, link in one.marks.items():
                sightings = seen[cid].get((mark, field)) if mark[0] == type_ else None
                if not sightings or any(s.at == one.at for s in sightings):
                    continue
                until = min([_next_write(recorded, mark, one.at, writers),
                             *(s.at - 1 for s in sightings if s.at > one.at and s.tool in showing)])  # fmt: skip
                later = [s for s in sightings if one.at < s.at <= until]
                if not later:
                    continue
                known = _known(one, mark, link)
                earlier = [s for s in sightings if s.at < one.at]
                settled = _is_settled(recorded, mark, one.at, earlier, writers)
                if any(r.step.tool in writers and r.acted and mark in r.marks
                       for r in recorded[(earlier[-1].at if earlier else 0) + 1 : one.at]):  # fmt: skip
                    old = known.get(f"rec/{link}/{field}", UNKNOWN) if followed else UNKNOWN
                else:
                    old = earlier[-1].value if earlier else UNKNOWN
                row = {k: v for k, v in known.items() if k != f"rec/{link}/{field}" or old is not UNKNOWN}
                since = earlier[-1].at if earlier else 0
                quiet = sum(r.step.tool in changing for r in recorded[since + 1 : later[-1].at]) == 1
                rows[link].append(_Given({**row, **one.answer}, later[-1].value, cid, later, old, settled, quiet))
    found = []
    for link, all_given in rows.items():
        given = _informative(all_given)
        if len(given) < FEWEST:
            continue
        changed = sum(freeze(g.new) != freeze(g.old) for g in given if g.old is not UNKNOWN)
        with_old = sum(g.old is not UNKNOWN for g in given)
        if with_old >= FEWEST and changed < max(2, RATE * with_old):
            continue
        recipe = find(Rows([g.row for g in given], [g.conversation for g in given]), [g.new for g in given])
        if recipe is None or recipe.precision < PRECISION or recipe.support < FEWEST:
            if with_old and changed >= max(2, 0.3 * with_old):
                found.append(Effect(link, type_, field, Source("?"), 0, 0))  # it changes, to what is not known
            continue
        lag = _lag([(g.row, g.later, g.old) for g in given], recipe.expression)
        found.append(Effect(link, type_, field, recipe.expression, recipe.support, recipe.against, lag))
    return found


def _known(one: Recorded, mark: Mark, link: str) -> Row:
    """A situation with what was known of the records that only its answer names. Of such a record, another link that
    leads to it as well says nothing: it does so by chance, as the latest one that was shown."""
    if not any(name.startswith(f"rec/{link}/") for name in one.found):
        return one.row
    others = tuple(f"rec/{name}/" for name, key in one.keys.items() if key == mark[1] and name != link
                   and (name.startswith(f"{mark[0]}(") or name.endswith(f">{mark[0]}")))  # fmt: skip
    return {**one.found, **{name: value for name, value in one.row.items() if not name.startswith(others)}}


class _Given(NamedTuple):
    """A row at a write, the value shown last, its conversation, all later sightings, and the value before.

    `settled`: the value before is no stale one. `quiet`: no other call between the sightings changes anything."""

    row: Row
    new: Any
    conversation: str
    later: list[Sighting]
    old: Any
    settled: bool
    quiet: bool


def _informative(given: list[_Given]) -> list[_Given]:
    """The rows without those that show only a first, stale answer, where first answers after the write are stale; and
    of lists, whose items others may change, those where nobody did."""
    if sum(isinstance(g.new, list) for g in given) > 0.5 * len(given):
        quiet = [g for g in given if g.quiet]
        return quiet if sum(g.old is not UNKNOWN and freeze(g.old) != freeze(g.new) for g in quiet) >= FEWEST else given
    stale = prompt = 0
    for g in given:
        if freeze(g.later[0].value) != freeze(g.new):
            stale += 1
        elif g.old is not UNKNOWN and freeze(g.new) != freeze(g.old):
            prompt += g.settled
    if stale < FEWEST or stale <= prompt:
        return given
    sure = [g for g in given if len(g.later) > 1 and g.settled]
    if len(sure) >= FEWEST:
        return sure
    return [g for g in given if len(g.later) > 1 or (g.old is not UNKNOWN and freeze(g.new) != freeze(g.old))]


def _is_settled(
    recorded: Sequence[Recorded], mark: Mark, at: int, earlier: Sequence[Sighting], writers: Sequence[str]
) -> bool:
    """Whether the value that was seen last is no stale one: it was seen twice since the last write, if any."""
    wrote = [r.at for r in recorded[:at] if r.step.tool in writers and r.acted and mark in r.marks]
    return not wrote or sum(s.at > wrote[-1] for s in earlier) > 1


def _next_write(recorded: Sequence[Recorded], mark: Mark, at: int, writers: Sequence[str]) -> int:
    for one in recorded[at + 1 :]:
        if one.step.tool in writers and one.acted and (mark in one.marks or mark[0] == EPISODE):
            return one.at
    return len(recorded)


def _lag(rows: Sequence[tuple[Row, list[Sighting], Any]], expression: Any) -> tuple[str, ...]:
    """The tools whose first answer after the write still shows the old value, nine times of ten."""
    stale: Counter[str] = Counter()
    fresh: Counter[str] = Counter()
    for row, later, old in rows:
        value = evaluate(expression, row)
        first = later[0]
        if value is UNKNOWN or freeze(value) == freeze(old):
            continue
        if freeze(first.value) == freeze(value):
            fresh[first.tool] += 1
        elif freeze(first.value) == freeze(old) or any(freeze(s.value) == freeze(value) for s in later[1:]):
            stale[first.tool] += 1
    return tuple(sorted(t for t, n in stale.items() if n >= FEWEST and n >= 0.85 * (n + fresh[t])))
