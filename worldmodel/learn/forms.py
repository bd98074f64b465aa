"""The ways a tool answers: outcomes, templates and sets of fields, and what is left to find for each."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from worldmodel.derive.situation import Row
from worldmodel.derive.templates import GAP, SAYS, fill, gaps_in, joined, mask
from worldmodel.derive.values import ABSENT, dumps, flatten, is_scalar, parse, shown
from worldmodel.steps import OK, Step, outcome_of

MOST_FORMS = 12
FEWEST_BODIES = 3
"""Of so many objects beside texts, the forms are their own."""
FEWEST_VARIED = 3
MANY = 6
"""More templates than this of one outcome may be one sentence."""
LONGEST_TEXT = 600
CALL = ("arg/", "odd/missing", "odd/type", "odd/option")
"""Sources that are the call's own: its arguments, and which of them are odd."""
MOST_COMPARED = 80
MANY_VALUES, LONG_SENTENCE = 5, 8
"""So many different texts between so many words that are always the same are values."""
MOST_PLACES = 12
"""Places at which most pairs of texts differ, for each round of merging."""
LONGEST_PIECE = 7
"""Words, and what stands between them, in which two texts may differ to be one sentence."""
_BETWEEN = re.compile(rf"{GAP}(?:[^\w{GAP}]{{1,3}}{GAP})*")
"""Gaps and the signs between them, which are no words of a sentence."""
_PIECES = re.compile(r"\w+(?:-\w*\d\w*)*|\s+|[^\w\s]")


@dataclass
class Draft:
    """A form before its slots are learned: the rows it has, and the target of each slot in each of them."""

    label: str
    outcome: str
    template: Any = None
    text: bool = False
    at: list[int] = field(default_factory=list)
    slots: dict[str, list[Any]] = field(default_factory=dict)
    open: bool = False
    varied: bool = False
    """Whether the class of the error is that of its text, and differs with the values in it."""


def draft_forms(
    steps: Sequence[Step], rows: Sequence[Row], maps: frozenset[str], told: bool = False
) -> tuple[list[Draft], list[str]]:
    """The forms of one tool's answers, and the label of each answer. `told`: texts were read as objects (`packing`)."""
    labels = [""] * len(steps)
    by_outcome: dict[str, list[int]] = defaultdict(list)
    for at, step in enumerate(steps):
        by_outcome[step.outcome].append(at)
    drafts: list[Draft] = []
    for number, draft in enumerate(_varied(steps, rows)):
        draft.label = f"refused~{number}"
        for i in draft.at:
            labels[i] = draft.label
            by_outcome[steps[i].outcome].remove(i)
        drafts.append(draft)
    for outcome, places in sorted((o, found) for o, found in by_outcome.items() if found):
        bodies = {i: parse(steps[i].content) for i in places}
        texts = [i for i in places if isinstance(bodies[i], str)]
        rest = [i for i in places if not isinstance(bodies[i], str)]
        if outcome == OK and min(len(texts), len(rest)) >= FEWEST_BODIES and (told or len(rest) > len(texts)):
            made = _bodies(outcome, rest, [bodies[i] for i in rest], maps, told)
            made += draft_texts(outcome, texts, [bodies[i] for i in texts], rows)
            made.sort(key=lambda draft: -len(draft.at))
        elif outcome == OK and len(rest) >= 0.5 * len(places):
            made = _bodies(outcome, places, list(bodies.values()), maps, told)
        else:
            made = draft_texts(outcome, places, list(bodies.values()), rows)
        for number, draft in enumerate(made):
            draft.label = outcome if number == 0 else f"{outcome}~{number}"
            for i in draft.at:
                labels[i] = draft.label
        drafts += made
    return drafts, labels


def _varied(steps: Sequence[Step], rows: Sequence[Row]) -> list[Draft]:
    """Refusals of one text whose class comes from that text and differs with a value in it: one form, not many."""
    failed = [i for i, s in enumerate(steps) if s.outcome != OK and s.outcome == outcome_of(s.content, True, "")]
    if len({steps[i].outcome for i in failed}) < 2:
        return []
    found: list[Draft] = []
    for draft in draft_texts("", failed, [parse(steps[i].content) for i in failed], rows):
        if len({steps[i].outcome for i in draft.at}) > 1 and len(draft.at) >= FEWEST_VARIED and not draft.open:
            draft.outcome, draft.varied = steps[draft.at[0]].outcome, True
            found.append(draft)
    return found[:MOST_FORMS]


def _bodies(
    outcome: str, places: Sequence[int], bodies: Sequence[Any], maps: frozenset[str], told: bool
) -> list[Draft]:
    """JSON successes: objects with mostly the same fields are one form; everything else is one slot. Texts that were
    read as objects are one form for each sentence."""
    flat = [dict(flatten(b, lambda p: p in maps)) if isinstance(b, dict) and b else {"": b} for b in bodies]
    groups: list[tuple[set[str], list[int]]] = []
    kinds = [(frozenset(f), dumps(f.get(SAYS)) if told else "") for f in flat]
    said: list[str] = []
    where: dict[tuple[frozenset[str], str], int] = {}
    for (names, says), _ in Counter(kinds).most_common():
        for number, (union, _) in enumerate(groups):
            if says == said[number] and len(names & union) >= 0.5 * len(names | union):
                union |= names
                where[names, says] = number
                break
        else:
            groups.append((set(names), []))
            said.append(says)
            where[names, says] = len(groups) - 1
    for k, kind in enumerate(kinds):
        groups[where[kind]][1].append(k)
    drafts = []
    for union, members in sorted(groups, key=lambda g: -len(g[1])):
        draft = Draft("", outcome, at=[places[k] for k in members])
        order = dict.fromkeys(n for k in members for n in flat[k])
        draft.slots = {name: [flat[k].get(name, ABSENT) for k in members] for name in order if name in union}
        drafts.append(draft)
    return drafts


def draft_texts(outcome: str, places: Sequence[int], bodies: Sequence[Any], rows: Sequence[Row]) -> list[Draft]:
    """Texts and error bodies: those that differ only in their gaps are one form."""
    best: list[Draft] = []
    for starts in ((*CALL,), (*CALL, "rec/", "told/")):
        drafts = _by_template(outcome, places, bodies, rows, starts)
        covered = sum(len(d.at) for d in drafts if len(d.at) >= 3) / len(places)
        if not best or covered > 0.1 + sum(len(d.at) for d in best if len(d.at) >= 3) / len(places):
            best = drafts
        if covered >= 0.9:
            break
    best = merged(best, rows)
    sentence = _sentence(outcome, places, bodies, rows) if sum(len(d.at) >= 2 for d in best) > 1 else None
    if sentence is not None:
        gone = set(sentence.at)
        left = [(i, b) for i, b in zip(places, bodies, strict=True) if i not in gone]
        best = [sentence, *merged(_by_template(outcome, [i for i, _ in left], [b for _, b in left], rows, CALL), rows)]
    if sum(len(d.at) >= 2 for d in best) > MANY:  # one sentence with words in it that no argument shows as they are
        aligned = align(outcome, places, dict(zip(places, bodies, strict=True)))
        if aligned is not None and len(aligned.at) >= 0.9 * len(places):
            gone = set(aligned.at)
            best = [aligned, *_by_template(outcome, [i for i in places if i not in gone],
                                           [b for i, b in zip(places, bodies, strict=True) if i not in gone], rows,
                                           CALL)]  # fmt: skip
    single = {i for d in best if len(d.at) < max(3, 0.02 * len(places)) for i in d.at}
    if len(single) >= 8:
        aligned = align(outcome, [i for i in places if i in single], dict(zip(places, bodies, strict=True)))
        if aligned is not None:
            gone = set(aligned.at)
            best = [aligned, *(d for d in best if not gone & set(d.at))]
            best.sort(key=lambda d: -len(d.at))
    best = absorbed(best)
    kept = [d for d in best if len(d.at) >= 2 or len(best) <= 3][:MOST_FORMS]
    rest = [d for d in best if d not in kept]
    if rest:
        other = Draft("", outcome, at=[i for d in rest for i in d.at], open=True)
        kept.append(other)
    return kept


def merged(drafts: Sequence[Draft], rows: Sequence[Row]) -> list[Draft]:
    """Texts that differ in one or two pieces only, which are mostly values that the row knows, as one form with gaps
    there: `Enrolled {name} in {course}`. Few names that many conversations share look like words of the sentence. Of
    bodies, one text may differ; everything else must be equal."""
    left = list(drafts)
    split = {id(draft): _in_pieces(draft) for draft in left[:MOST_COMPARED]}
    kept = list(left)  # what is compared by its identity stays alive
    places: dict[tuple[int, int], _Place | None] = {}
    while True:
        compared = [(draft, pieces) for draft in left if (pieces := split.get(id(draft))) is not None]
        counts: Counter[_Place] = Counter()
        for at, (one, own) in enumerate(compared):
            for other, others in compared[at + 1 :]:
                pair = id(one), id(other)
                if pair not in places:
                    places[pair] = _difference(own, others)
                if (found := places[pair]) is not None:
                    counts[found] += 1
        best: tuple[tuple[int, int], list[Draft], Draft] | None = None
        for place, _ in sorted(counts.items(), key=lambda p: (-p[1], p[0]))[:MOST_PLACES]:
            members = [(draft, said) for draft, own in compared if (said := _said_at(draft, own, place)) is not None]
            if len(members) < 2:
                continue
            both, numbers = _with_gaps(place, members)
            shown_ = all(_is_value(both.slots[str(k)], [rows[i] for i in both.at], place[1]) for k in numbers)
            mark = (len(members), -len(numbers))
            if shown_ and (best is None or mark > best[0]):
                best = mark, [draft for draft, _ in members], both
        if best is None:
            return sorted(left, key=lambda d: -len(d.at))
        left = [best[2], *(d for d in left if all(d is not member for member in best[1]))]
        kept.append(best[2])
        split[id(best[2])] = _in_pieces(best[2])


_Place = tuple[int, tuple[str, ...], tuple[str, tuple[tuple[str, ...], ...]]]
"""The number of a text in a template, what stands around its new gaps, and everything else of the template."""
_Split = tuple[str, tuple[tuple[str, ...], ...]]
"""A template without its texts, and the pieces of each of them."""


def absorbed(drafts: Sequence[Draft]) -> list[Draft]:
    """Text forms without those that are another with several gaps, which only signs part, where that has one."""
    left = sorted(drafts, key=lambda d: -len(d.at))
    for small in list(reversed(left)):
        for big in left if isinstance(small.template, str) else ():
            if big is small or not isinstance(big.template, str) or big.text != small.text:
                continue
            parts = gaps_in(big.template, small.template)
            if not parts or all(part == GAP for part in parts) or any(_BETWEEN.fullmatch(p) is None for p in parts):
                continue
            gaps = [[small.slots[str(k)][at] for k in range(len(small.slots))] for at in range(len(small.at))]
            found = [gaps_in(big.template, str(fill(small.template, own))) for own in gaps]
            if all(one is not None for one in found):
                at = [*big.at, *small.at]
                order = sorted(range(len(at)), key=at.__getitem__)
                for number in range(len(big.slots)):
                    values = [*big.slots[str(number)], *(one[number] for one in found if one is not None)]
                    big.slots[str(number)] = [values[k] for k in order]
                big.at = [at[k] for k in order]
                left = [draft for draft in left if draft is not small]
                break
    return sorted(left, key=lambda d: -len(d.at))


def _in_pieces(draft: Draft) -> _Split | None:
    """None for a template that is not compared: a long one, or one whose gaps are not all its own (a text of production
    can have the mark of a gap)."""
    texts: list[str] = []
    frame = _walk(draft.template, texts, None)
    whole = sum(text.count(GAP) for text in texts) == len(draft.slots)
    even = all(len(values) == len(draft.at) for values in draft.slots.values())
    if not texts or draft.open or not whole or not even or sum(map(len, texts)) > LONGEST_TEXT:
        return None
    return dumps(frame), tuple(tuple(_PIECES.findall(text)) for text in texts)


def _walk(template: Any, texts: list[str], put: tuple[int, str] | None) -> Any:
    """The template without its texts, which are added to `texts` in the order of their gaps; or with the text of the
    number `put[0]` replaced."""
    if isinstance(template, dict):
        return {name: _walk(inner, texts, put) for name, inner in template.items()}
    if isinstance(template, list):
        return [_walk(inner, texts, put) for inner in template]
    if not isinstance(template, str):
        return template
    texts.append(template)
    if put is None:
        return ""
    return put[1] if put[0] == len(texts) - 1 else template


def _difference(one: _Split, other: _Split) -> _Place | None:
    """Where two templates differ, if that is one or two short pieces of words in one of their texts."""
    if one[0] != other[0] or len(one[1]) != len(other[1]):
        return None
    apart = [k for k, (a, b) in enumerate(zip(one[1], other[1], strict=True)) if a != b]
    found = _around(one[1][apart[0]], other[1][apart[0]]) if len(apart) == 1 else None
    return None if found is None else (apart[0], found, _rest(one, apart[0]))


def _rest(split: _Split, which: int) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """A template without one of its texts."""
    return split[0], (*split[1][:which], *split[1][which + 1 :])


def _around(a: Sequence[str], b: Sequence[str]) -> tuple[str, ...] | None:
    """What two texts begin and end with alike, and have between, if one or two short pieces of words differ."""
    start = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    rest = min(len(a), len(b)) - start
    end = next((k for k in range(rest) if a[-1 - k] != b[-1 - k]), rest)
    fixed = [a[:start], a[len(a) - end :]]
    between = [(a[start : len(a) - end], b[start : len(b) - end])]
    if not all(0 < len(part) <= LONGEST_PIECE for part in between[0]):
        one, other = between[0]
        match = SequenceMatcher(None, one, other, autojunk=False).find_longest_match()
        middle = one[match.a : match.a + match.size]
        if sum(piece.isalnum() for piece in middle) < 2:
            return None
        fixed.insert(1, middle)
        ends = match.a + match.size, match.b + match.size
        between = [(one[: match.a], other[: match.b]), (one[ends[0] :], other[ends[1] :])]
    for part in (part for pair in between for part in pair):
        if not 0 < len(part) <= LONGEST_PIECE:
            return None
    if all(part == (GAP,) for part in between[0]) or sum(piece.isalnum() for part in fixed for piece in part) < 2:
        return None
    for before, after in zip(fixed, fixed[1:], strict=False):
        if GAP in (*before[-1:], *after[:1]):
            return None
    return tuple("".join(part) for part in fixed)


def _said_at(draft: Draft, own: _Split, place: _Place) -> list[str] | None:
    """What a template has at the gaps of a place: short texts, which may have gaps. None where it does not fit."""
    texts: list[str] = []
    _walk(draft.template, texts, None)
    which, fixed, rest = place
    if which >= len(texts) or _rest(own, which) != rest:
        return None
    pattern = "(.+?)".join(map(re.escape, fixed))
    found = re.fullmatch(pattern, texts[which], re.DOTALL)
    said = list(found.groups()) if found else []
    short = all(len(_PIECES.findall(text)) <= LONGEST_PIECE for text in said)
    return said if said and short else None


def _with_gaps(place: _Place, members: Sequence[tuple[Draft, list[str]]]) -> tuple[Draft, list[int]]:
    """The templates as one with gaps at a place, and the numbers of these gaps."""
    which, fixed, _ = place
    texts: list[str] = []
    first = members[0][0]
    template = _walk(first.template, texts, (which, GAP.join(fixed)))
    start = sum(text.count(GAP) for text in texts[:which])
    counts = [part.count(GAP) for part in fixed]  # gaps that all of them have
    out = Draft("", first.outcome, template, first.text)
    numbers = [start + sum(counts[: k + 1]) + k for k in range(len(fixed) - 1)]
    found: dict[int, list[Any]] = {}
    for member, said in members:
        for at, i in enumerate(member.at):
            gaps = [member.slots[str(k)][at] for k in range(len(member.slots))]
            for number, text in zip(numbers, said, strict=True):
                if text != GAP:
                    inside = gaps[number : number + text.count(GAP)]
                    gaps[number : number + len(inside)] = [shown(fill(text, inside))]
            found[i] = gaps
    out.at = sorted(found)
    for i in out.at:
        for k, gap in enumerate(found[i]):
            out.slots.setdefault(str(k), []).append(gap)
    return out, numbers


def _is_value(said: Sequence[str], rows: Sequence[Row], fixed: Sequence[str]) -> bool:
    """Whether texts are values of their rows, or so many different ones in so long a sentence that they are no words
    of it."""
    words = sum(piece.isalnum() for part in fixed for piece in _PIECES.findall(part))
    return _is_shown(said, rows) or len(set(said)) >= MANY_VALUES and words >= LONG_SENTENCE


def _is_shown(said: Sequence[str], rows: Sequence[Row]) -> bool:
    """Whether half of the texts, and more than one, are values of their rows."""
    hits = []
    for text, row in zip(said, rows, strict=True):
        whole = text.casefold()
        hits += [text] if any(isinstance(v, str) and v.casefold() == whole for v in row.values()) else []
    return len(hits) >= max(3, 0.5 * len(said)) and len(set(hits)) > 1


def _sentence(outcome: str, places: Sequence[int], bodies: Sequence[Any], rows: Sequence[Row]) -> Draft | None:
    """One sentence with a value of a record in it, which only some of the rows know: `the order is {status}`."""
    texts = list(bodies)
    name = ""
    if all(isinstance(b, dict) and b.keys() == bodies[0].keys() for b in bodies):
        varied = [n for n in bodies[0] if len({dumps(b[n]) for b in bodies}) > 1]
        if len(varied) != 1:
            return None
        name = varied[0]
        texts = [b[name] for b in bodies]
    found = align(outcome, places, dict(zip(places, texts, strict=True)))
    if found is None or len(found.at) < 0.9 * len(places):
        return None
    if not all(_is_known(targets, [rows[i] for i in found.at]) for targets in found.slots.values()):
        return None
    if isinstance(bodies[0], dict):
        found.template, found.text = {**bodies[0], name: found.template}, False
    return found


def _is_known(targets: Sequence[str], rows: Sequence[Row]) -> bool:
    """Whether some source holds these texts wherever it is known, in a quarter of the rows at least."""
    known: Counter[str] = Counter()
    hits: dict[str, Counter[str]] = defaultdict(Counter)
    for target, row in zip(targets, rows, strict=True):
        for name, value in row.items():
            if name.startswith(("arg/", "rec/")) and is_scalar(value) and value is not None:
                known[name] += 1
                if shown(value) == target:
                    hits[name][target] += 1
    fewest = max(4, 0.25 * len(rows))
    return any(n >= fewest and len(hits[name]) > 1 and hits[name].total() >= 0.9 * n for name, n in known.items())


def _by_template(
    outcome: str, places: Sequence[int], bodies: Sequence[Any], rows: Sequence[Row], starts: tuple[str, ...]
) -> list[Draft]:
    found: dict[str, Draft] = {}
    short = _repeated(places, bodies, rows)
    masked = []
    for i, body in zip(places, bodies, strict=True):
        known = [shown(v) for n, v in rows[i].items() if n.startswith(starts) and is_scalar(v) and v is not None]
        words = [shown(rows[i][n]) for n in short if n in rows[i]]
        masked.append(mask(body, [t for t in known if len(t) <= 120], words))
    lists: dict[str, set[str]] = defaultdict(set)
    for template, gaps in masked:
        if isinstance(template, str):
            lists[joined(template, gaps)[0]].add(template)
    for i, body, (template, gaps) in zip(places, bodies, masked, strict=True):
        if isinstance(template, str) and len(lists[joined(template, gaps)[0]]) > 1:  # so many values as there are
            template, gaps = joined(template, gaps)
        draft = found.setdefault(dumps(template), Draft("", outcome, template, isinstance(body, str)))
        draft.at.append(i)
        for number, gap in enumerate(gaps):
            draft.slots.setdefault(str(number), []).append(gap)
    return sorted(found.values(), key=lambda d: -len(d.at))


def _repeated(places: Sequence[int], bodies: Sequence[Any], rows: Sequence[Row]) -> list[str]:
    """The arguments with texts of one or two characters that nearly all texts repeat as words of their own."""
    held: Counter[str] = Counter()
    values: dict[str, set[str]] = defaultdict(set)
    for i, body in zip(places, bodies, strict=True):
        words = set(_PIECES.findall(body)) if isinstance(body, str) else ()
        for name, value in rows[i].items():
            if name.startswith("arg/") and isinstance(value, str) and 0 < len(value) < 3 and value in words:
                held[name] += 1
                values[name].add(value)
    return [name for name, n in held.items() if n >= 0.8 * len(places) and len(values[name]) > 1]


def align(outcome: str, places: Sequence[int], bodies: Mapping[int, Any]) -> Draft | None:
    """Texts that share their words but for a few gaps, whatever stands in these: one form."""
    texts = [(i, bodies[i]) for i in places if isinstance(bodies[i], str) and len(bodies[i]) <= LONGEST_TEXT]
    if len(texts) < 0.7 * len(places):
        return None
    common = _PIECES.findall(texts[0][1])
    for _, text in texts[1:40]:
        match = SequenceMatcher(None, common, other := _PIECES.findall(text), autojunk=False)
        kept = [common[b.a : b.a + b.size] for b in match.get_matching_blocks()]
        shorter = [piece for block in kept for piece in block]
        if sum(piece.isalnum() for piece in shorter) >= 2 or not other:
            common = shorter
    if sum(piece.isalnum() for piece in common) < 2:
        return None
    first = _PIECES.findall(texts[0][1])
    match = SequenceMatcher(None, common, first, autojunk=False)
    fixed: list[str] = []
    end = 0
    for block in match.get_matching_blocks():
        if block.b > end or not fixed:
            fixed.append("")
        fixed[-1] += "".join(first[block.b : block.b + block.size])
        end = block.b + block.size
    if end < len(first) or not fixed:
        fixed.append("")
    pattern = re.compile("(.*?)".join(map(re.escape, fixed)), re.S)
    draft = Draft("", outcome, GAP.join(fixed), True)
    for i, text in texts:
        found = pattern.fullmatch(text)
        if found is not None:
            draft.at.append(i)
            for number, gap in enumerate(found.groups()):
                draft.slots.setdefault(str(number), []).append(gap)
    return draft if len(draft.at) >= 0.7 * len(places) and len(fixed) > 1 else None
