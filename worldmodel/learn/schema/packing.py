"""Which answers hold several values in one text, and in which forms: lists of texts, and texts that repeat a line."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from worldmodel.derive.packing import BLOCK, ITEMS, LINES, Packing, read_back, read_item, split_block, without_block
from worldmodel.derive.templates import GAP, SAYS, Sentence, gaps_in
from worldmodel.derive.values import dumps, flatten, is_scalar, parse, shown
from worldmodel.learn.schema.lines import Seen, finer, forms_of, forms_of_lines, named, sampled
from worldmodel.learn.schema.texts import FEWEST, Told, sentences_of, told
from worldmodel.steps import OK, Step

Conversations = Mapping[str, Sequence[Step]]
MOST_HEADS = 12
FORM, GAP_COST = 3, 1
"""Characters that a character of a form costs, and the end of a value."""
SHORTER = 0.8
"""The description with a packing must be so much shorter than the texts."""
MOST_COSTED, MOST_LINES = 150, 3000
HEADS = 0.8
"""So many of a tool's texts must be read with what stands around their repeated part."""
_LABEL = re.compile(r"(^|\n[ \t]*|[ \t]\|[ \t]|[.;,][ \t])([^\W\d_][\w ]{0,24}?):[ \t]+")


def learn_packing(conversations: Conversations) -> dict[str, Packing]:
    """By tool, how its successes hold values in texts."""
    answers, said = told(conversations, arguments=True)
    lists = {tool: _lists_of(of_tool) for tool, of_tool in sorted(answers.items())}
    forms = {(tool, path): forms_of(seen, said) for tool, found in lists.items() for path, seen in found.items()}
    known = list(dict.fromkeys(found for found in forms.values() if found))
    found: dict[str, Packing] = {}
    for tool, of_tool in sorted(answers.items()):
        own = {path: forms[tool, path] or _borrowed(seen, known) for path, seen in lists[tool].items()}
        own = {path: of_path for path, of_path in own.items() if of_path}
        packing = Packing(own) if own else _texts(of_tool, said)
        if packing is not None:
            found[tool] = packing
    return found


def _borrowed(seen: Seen, known: Sequence[tuple[Sentence, ...]]) -> tuple[Sentence, ...]:
    """The forms, learned of another tool, that all of these texts have."""
    for forms in known:
        if seen and all(read_back(forms, text) is not None for _, text in seen):
            return forms
    return ()


def unpacked(conversations: Conversations, packings: Mapping[str, Packing]) -> Conversations:
    """The conversations with objects in place of the texts that are read as such."""
    if not packings:
        return conversations
    return {cid: [_unpacked(step, packings.get(step.tool)) for step in steps] for cid, steps in conversations.items()}


def _unpacked(step: Step, packing: Packing | None) -> Step:
    if packing is None or step.outcome != OK:
        return step
    before = parse(step.content)
    body = packing.unpack(before)
    return step if body is before or isinstance(body, str) else replace(step, content=dumps(body))


# ----- lists of texts


def _lists_of(answers: Sequence[Told]) -> dict[str, list[tuple[str, str]]]:
    """By path, the items of the lists that hold nothing but texts."""
    texts: dict[str, list[tuple[str, str]]] = defaultdict(list)
    odd: set[str] = set()
    for cid, step, _ in answers:
        for path, items in _lists_in(parse(step.content)):
            if all(isinstance(item, str) for item in items):
                texts[path] += [(cid, item) for item in items]
            else:
                odd.add(path)
    return {path: seen for path, seen in texts.items() if path not in odd and seen}


def _lists_in(body: Any) -> Iterator[tuple[str, list[Any]]]:
    if isinstance(body, list):
        yield "", body
    elif isinstance(body, dict):
        yield from ((path, value) for path, value in flatten(body) if isinstance(value, list))


# ----- texts with a line for each record, or for each field


def _texts(answers: Sequence[Told], said: Mapping[str, int]) -> Packing | None:
    """The best of the packings that are possible; None where none reads most of the texts that it is meant for."""
    texts = [one for one in answers if isinstance(body := parse(one[1].content), str) and body.count("\n") < LINES]
    if len(texts) < max(FEWEST, 0.5 * len(answers)):
        return None
    bodies = [(cid, parse(step.content)) for cid, step, _ in texts]
    found = [Packing({}, (), _heads(texts, said))] if _labelled(bodies, said) else []
    for between in ("\n", "; ", " | "):
        for parts in _repeated(bodies, between):
            forms = forms_of(parts, said)
            around = [split_block(forms, between, body)[0] for _, body in bodies] if forms else []
            with_block = {cid for (cid, _), text in zip(bodies, around, strict=False) if BLOCK in text}
            if len(with_block) >= FEWEST:
                left = [
                    (cid, replace(step, content=text), row)
                    for (cid, step, row), text in zip(texts, around, strict=True)
                ]
                found.append(Packing({}, forms, _listed(_heads(left, said)), between))
    some = [body for _, body in sampled(bodies, MOST_COSTED)]
    costs = [(_cost(one, some), k) for k, one in enumerate(found)]
    best = min(costs, default=(math.inf, 0))
    return found[best[1]] if best[0] < SHORTER * sum(map(len, some)) else None


def _heads(texts: Sequence[Told], said: Mapping[str, int]) -> tuple[Sentence, ...]:
    """What texts say, except for their repeated parts: labelled lines, and sentences."""
    labelled = _labelled([(cid, step.content) for cid, step, _ in texts], said)
    left = [one for one in texts if not any(_fits(head, one[1].content) for head in labelled)]
    return (*labelled, *(sentences_of(left, said) if left else ()))


def _listed(heads: Sequence[Sentence]) -> tuple[Sentence, ...]:
    """The sentences without those that are another one whose list is empty."""
    empty = {without_block(head.template) for head in heads}
    return tuple(head for head in heads if BLOCK in head.template or head.template not in empty)


def _cost(packing: Packing, texts: Sequence[str]) -> float:
    """How many characters describe the texts: the forms, and the values in their gaps. Infinite for a packing that does
    not read most of the texts that it is meant for."""
    blocks = [split_block(packing.items, packing.between, text) for text in texts]
    meant = [bool(parts) if packing.items else "\n" in text for (_, parts), text in zip(blocks, texts, strict=True)]
    opened = [packing.unpack(text) for text in texts]
    good = [packing.pack(one) == text != one for one, text in zip(opened, texts, strict=True)]
    well = sum(one and wanted for one, wanted in zip(good, meant, strict=True))
    several = [parts for _, parts in blocks if len(parts) > 1]
    if not any(meant) or well < HEADS * sum(meant) or packing.items and len(several) < FEWEST:
        return math.inf
    if any(_at_one_end(form, several) for form in packing.items):
        return math.inf
    cost = sum(FORM * len(form.template) for form in (*packing.items, *packing.heads))
    for one, text, fine in zip(opened, texts, good, strict=True):
        if not fine:
            cost += len(text)
            continue
        rows = [one, *one.get(ITEMS, [])]
        values = [v for row in rows for name, v in row.items() if name not in (SAYS, ITEMS)]
        cost += len(rows) + sum(GAP_COST + len(shown(v) if is_scalar(v) else dumps(v)) for v in values)
    return cost


def _at_one_end(form: Sentence, blocks: Sequence[Sequence[str]]) -> bool:
    """Whether texts of a form always begin or always end the block: they are a heading, and no record of a list."""
    at = [(k == 0, k == len(parts) - 1) for parts in blocks for k, part in enumerate(parts) if read_item((form,), part)]
    return len(at) >= FEWEST and (all(first for first, _ in at) or all(last for _, last in at))


def _repeated(texts: Seen, between: str) -> Iterator[Seen]:
    """The parts of texts that may be of one kind and stand beside each other: those that begin alike, and all lines
    but the first, or but the first and the last."""
    if between != "\n":
        rests = [(cid, text.partition(": ")[2].removesuffix(".").split(between)) for cid, text in texts]
        if len({cid for cid, parts in rests if len(parts) > 1}) >= FEWEST:
            yield [(cid, part) for cid, parts in rests for part in parts if part]
        return
    kinds: dict[str, list[tuple[str, str]]] = defaultdict(list)
    together: dict[str, set[str]] = defaultdict(set)
    inner: list[tuple[str, str]] = []
    most: list[tuple[str, str]] = []
    for cid, text in texts:
        lines = text.split("\n")
        marks = [_mark(line) for line in lines]
        for k, (line, mark) in enumerate(zip(lines, marks, strict=True)):
            kinds[mark].append((cid, line))
            if k and marks[k - 1] == mark:
                together[mark].add(cid)
        most += [(cid, line) for line in lines[1:]]
        inner += [(cid, line) for line in lines[1:-1]]
    for mark, cids in sorted(together.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        if len(cids) >= FEWEST:
            yield sampled(kinds[mark], MOST_LINES)
    for found in (most, inner):
        if len(found) > len({cid for cid, _ in found}) >= FEWEST:
            yield sampled(found, MOST_LINES)


def _mark(line: str) -> str:
    """The kind of a line: how it is indented, and its first sign."""
    bare = line.lstrip()
    return f"{len(line) - len(bare)}{bare[:1] if bare and not bare[0].isalnum() else ''}"


def _labelled(texts: Seen, said: Mapping[str, int]) -> tuple[Sentence, ...]:
    """The forms of texts of several lines that label their values: `Status: open`; none where they do not, or where
    they have too many forms."""
    long = [(cid, text) for cid, text in texts if "\n" in text and GAP not in text]
    labels = Counter(label for _, text in long for label in {found[2] for found in _LABEL.finditer(text)})
    usual = {label for label, n in labels.items() if n >= HEADS * len(long)}
    if len(usual) < 2:
        return ()
    lines = forms_of_lines([(cid, _before(text, usual)) for cid, text in long], said)
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for cid, text in long:
        found[_skeleton(text, usual, lines)].append((cid, text))
    heads = []
    for skeleton, members in found.items():
        if len({cid for cid, _ in members}) >= FEWEST:
            own = [text for _, text in members]
            form = named(finer(skeleton, own) or skeleton, own, said)
            heads += [form] if form is not None else []
    heads.sort(key=lambda one: (-len(one.template), one.template))
    inside = sum(any(_fits(head, text) for head in heads) for _, text in long)
    return tuple(heads) if len(heads) <= MOST_HEADS and inside >= HEADS * len(long) else ()


def _fits(head: Sentence, text: str) -> bool:
    """Whether a text has this form, with values of one line."""
    found = gaps_in(head.template, text)
    return found is not None and not any("\n" in value for value in found)


def _before(text: str, usual: set[str]) -> str:
    """What stands before the first of these labels."""
    return next((text[: match.start()] for match in _LABEL.finditer(text) if match[2] in usual), text)


def _skeleton(text: str, usual: set[str], lines: Sequence[Sentence]) -> str:
    """A text with gaps for the values of these labels, and for what stands before them, in one of the forms `lines`."""
    out, at = "", 0
    found = [match for match in _LABEL.finditer(text) if match[2] in usual]
    for k, match in enumerate(found):
        after = found[k + 1] if k + 1 < len(found) else None
        before = text[at : match.start()]
        if at == 0 and before:
            before = next((form.template for form in lines if gaps_in(form.template, before) is not None), GAP)
        out += before + match[0]
        end = after.start() if after is not None else len(text)
        value = text[match.end() : end].partition("\n")[0]
        at = match.end() + len(value)
        out += GAP if value else ""
    return out + text[at:]
