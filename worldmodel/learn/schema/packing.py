"""Which answers hold several values in one text, and in which forms: lists of texts, and texts that repeat a line."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Any

import msgspec

from worldmodel.derive.packing import BLOCK, ITEMS, Packing, narrow, read_item, split_block, without_block, write_item
from worldmodel.derive.templates import GAP, SAYS, Sentence, gaps_in
from worldmodel.derive.values import dumps, flatten, is_scalar, parse, shown
from worldmodel.learn.schema.texts import FEWEST, Told, kind_of_gap, name_of_gap, sentences_of, told
from worldmodel.steps import OK, Step

Conversations = Mapping[str, Sequence[Step]]
Seen = Sequence[tuple[str, str]]
"""Texts, each with its conversation."""
MOST, LONGEST, MOST_COMPARED = 1500, 240, 60
MOST_FORMS = 6
TABLE = 12
"""Lines from which on places where all have a space part columns."""
NAMES = 0.02
"""Texts of which so many are arguments of calls are names."""
READ = 0.95
"""So many of the texts must be in a known form; else none is read."""
MOST_HEADS = 12
FORM, GAP_COST = 3, 1
"""Characters that a character of a form costs, and the end of a value."""
HEADS = 0.8
"""So many of a tool's texts must be read with what stands around their repeated part."""
_PIECES = re.compile(r"\s+|[^\w\s]+(?=\s|$)|[^\w\s]+(?=\w)|\w(?:\S*\w)?")
_LABEL = re.compile(r"(^|\n[ \t]*|[ \t]\|[ \t]|[.;,][ \t])([^\W\d_][\w ]{0,24}?):[ \t]+")
_IDENTIFIER = re.compile(r"\S*\d\S*")


def learn_packing(conversations: Conversations) -> dict[str, Packing]:
    """By tool, how its successes hold values in texts."""
    answers, said = told(conversations, arguments=True)
    found = {}
    for tool, of_tool in sorted(answers.items()):
        packing = _lists(of_tool, said) or _texts(of_tool, said)
        if packing is not None:
            found[tool] = packing
    return found


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


def _lists(answers: Sequence[Told], said: Mapping[str, int]) -> Packing | None:
    texts: dict[str, list[tuple[str, str]]] = defaultdict(list)
    odd: set[str] = set()
    for cid, step, _ in answers:
        for path, items in _lists_in(parse(step.content)):
            if all(isinstance(item, str) for item in items):
                texts[path] += [(cid, item) for item in items]
            else:
                odd.add(path)
    lists = {path: forms for path, seen in texts.items() if path not in odd and (forms := forms_of(seen, said))}
    return Packing(lists) if lists else None


def _lists_in(body: Any) -> Iterator[tuple[str, list[Any]]]:
    if isinstance(body, list):
        yield "", body
    elif isinstance(body, dict):
        yield from ((path, value) for path, value in flatten(body) if isinstance(value, list))


# ----- texts with a line for each record, or for each field


def _texts(answers: Sequence[Told], said: Mapping[str, int]) -> Packing | None:
    """The best of the packings that are possible; None where none reads most of the texts that it is meant for."""
    texts = [(cid, step, seen) for cid, step, seen in answers if isinstance(parse(step.content), str)]
    if len(texts) < max(FEWEST, 0.5 * len(answers)):
        return None
    bodies = [(cid, parse(step.content)) for cid, step, _ in texts]
    found = [Packing({}, (), heads)] if (heads := _labelled(bodies, said)) else []
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
                heads = _labelled([(cid, step.content) for cid, step, _ in left], said) or sentences_of(left, said)
                found.append(Packing({}, forms, _listed(heads), between))
    costs = [(_cost(one, [body for _, body in bodies]), k) for k, one in enumerate(found)]
    best = min(costs, default=(math.inf, 0))
    return found[best[1]] if best[0] < math.inf else None


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
    if well < HEADS * sum(meant) or any(_at_one_end(form, several) for form in packing.items):
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
            yield kinds[mark]
    for found in (most, inner):
        if len(found) > len({cid for cid, _ in found}) >= FEWEST:
            yield found


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
    if len(usual) < 2 or len(long) < HEADS * len(texts):
        return ()
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for cid, text in long:
        found[_skeleton(text, usual)].append((cid, text))
    heads = []
    for skeleton, members in found.items():
        if len({cid for cid, _ in members}) >= FEWEST:
            own = [text for _, text in members]
            form = named(_finer(skeleton, own) or skeleton, own, said)
            heads += [form] if form is not None else []
    heads.sort(key=lambda one: (-len(one.template), one.template))
    inside = sum(any(_fits(head, text) for head in heads) for _, text in long)
    return tuple(heads) if len(heads) <= MOST_HEADS and inside >= HEADS * len(long) else ()


def _fits(head: Sentence, text: str) -> bool:
    """Whether a text has this form, with values of one line."""
    found = gaps_in(head.template, text)
    return found is not None and not any("\n" in value for value in found)


def _skeleton(text: str, usual: set[str]) -> str:
    """A text with gaps for the values of these labels, and for a line before them."""
    out, at = "", 0
    found = [match for match in _LABEL.finditer(text) if match[2] in usual]
    for match, after in zip(found, [*found[1:], None], strict=True):
        before = text[at : match.start()]
        out += (GAP if at == 0 and before else before) + match[0]
        end = after.start() if after is not None else len(text)
        value = text[match.end() : end]
        at = match.end() + len(value.partition("\n")[0])
        out += GAP if value.partition("\n")[0] else ""
    return out + text[at:]


# ----- the forms of texts


def forms_of(seen: Seen, said: Mapping[str, int]) -> tuple[Sentence, ...]:
    """The forms that nearly all of these texts have, with two values or more; none where there are no such forms, or
    where calls name the texts as they are."""
    left = [(cid, text) for cid, text in seen if text]
    whole = {text for _, text in left}
    if sum(text in said for text in whole) >= max(FEWEST, NAMES * len(whole)):
        return ()
    if len({text for _, text in left}) < 2 * FEWEST or any(GAP in text or len(text) > LONGEST for _, text in left):
        return ()
    forms: list[Sentence] = []
    total = len(left)
    while left and len(forms) < MOST_FORMS and len({cid for cid, _ in left}) >= FEWEST:
        form = _form(left, said)
        if form is None:
            break
        forms.append(form)
        left = [(cid, text) for cid, text in left if read_item((form,), text) is None]
    found = tuple(sorted(forms, key=lambda form: (-len(form.template.replace(GAP, "")), form.template)))
    readable = [text for _, text in seen if text and (one := read_item(found, text)) and write_item(found, one) == text]
    return found if found and len(readable) >= READ * total else ()


def _form(seen: Seen, said: Mapping[str, int]) -> Sentence | None:
    """The form that most of the texts have: of several, that which reads most values. With columns, if these are the
    lines of a table."""
    texts = [text for _, text in seen]
    tried = [_plain_form(seen, said)]
    if any("  " in text.strip() for text in texts):
        form = _plain_form([(cid, narrow(text)) for cid, text in seen], said)
        if form is not None:
            tried.append(msgspec.structs.replace(form, columns=_columns(form, texts)))
        tried.append(_table(seen, said))
    found = [form for form in tried if form is not None]
    return max(found, key=lambda form: _values_read(form, texts), default=None)


def _values_read(form: Sentence, texts: Sequence[str]) -> int:
    """How many values a form reads in all texts, of those that it writes again as they were."""
    return sum(len(it) for text in texts if (it := read_item((form,), text)) and write_item((form,), it) == text)


def _table(seen: Seen, said: Mapping[str, int]) -> Sentence | None:
    """The lines of a table whose columns stand at the same places in all of them."""
    texts = list(dict.fromkeys(text for _, text in seen))
    if len(texts) < TABLE or len({cid for cid, _ in seen}) < FEWEST:
        return None
    width = max(map(len, texts))
    free = [all(len(text) <= at or text[at] == " " for text in texts) for at in range(width)]
    edges = [at for at in range(width + 1) if (at == width or free[at]) != (at == 0 or free[at - 1])]
    cells = list(zip(edges[::2], edges[1::2], strict=True))
    columns = [[text[a:b].strip(" ") for text in texts] for a, b in cells]
    if len(cells) < 2 or not all(all(column) for column in columns):
        return None
    varied = [k for k, column in enumerate(columns) if len(set(column)) > 1]
    left = [all(text[a] != " " for text in texts) for a, _ in cells]
    right = [all(len(text) >= b and text[b - 1] != " " for text in texts) for _, b in cells]
    if len(varied) < 2 or not all(one or other for one, other in zip(left, right, strict=True)):
        return None
    template, places = texts[0][: cells[varied[0]][0]] if left[varied[0]] else "", []
    for k, after in zip(varied, [*varied[1:], None], strict=True):
        (_, end), until = cells[k], cells[after][0] if after is not None else width
        if not left[k]:
            places.append(-end)
            piece = texts[0][end:until] if after is None or left[after] else " "
        elif after is None and k == len(cells) - 1:
            places.append(0)
            piece = ""
        elif after == k + 1 and not left[after]:
            places.append(0)
            piece = " "
        else:
            places.append(cells[k + 1][0])
            piece = " " + texts[0][cells[k + 1][0] : until]
        template += GAP + piece
    kinds = tuple(kind_of_gap(columns[k], said) for k in varied)
    names = tuple(f"value{number}" for number in range(len(varied)))
    return Sentence(template, names, kinds, tuple(places))


def _columns(form: Sentence, texts: Sequence[str]) -> tuple[int, ...]:
    """By gap, where what follows it begins in all of these lines, or with a minus where it ends itself; else 0."""
    places: list[list[tuple[int, int, int]]] = []
    for text in texts:
        values, at, found = gaps_in(form.template, narrow(text)), 0, []
        for value in values or ():
            start = text.find(value, at)
            if start < 0:
                break
            at = start + len(value)
            found.append((start, at, len(text) - len(text[at:].lstrip(" "))))
        if values is not None and len(found) == len(values):
            places.append(found)
    out = []
    for gap in zip(*places, strict=True):
        starts, ends, nexts = ({place[k] for place in gap} for k in range(3))
        follows = len(starts) == len(nexts) == 1 and len(ends) > 1
        out.append(nexts.pop() if follows else -ends.pop() if len(ends) == 1 < len(starts) else 0)
    return tuple(out)


def _plain_form(seen: Seen, said: Mapping[str, int]) -> Sentence | None:
    texts = list(dict.fromkeys(text for _, text in seen))
    by_signs = Counter(_signs(text) for text in texts)
    signs, _ = by_signs.most_common(1)[0]
    alike = [text for text in texts if _signs(text) == signs]
    if len({cid for cid, text in seen if _signs(text) == signs}) < FEWEST or len(alike) < FEWEST:
        return None
    template = _finer(_template(alike), alike)
    if template is None or template.count(GAP) < 2:
        return None
    columns = list(zip(*(found for text in texts if (found := gaps_in(template, text)) is not None), strict=True))
    if sum(len(set(column)) > 1 for column in columns) < 2:
        return None
    return named(template, texts, said)


def named(template: str, texts: Sequence[str], said: Mapping[str, int]) -> Sentence | None:
    """A template with names and kinds for its gaps; None if no text has it."""
    columns = list(zip(*(found for text in texts if (found := gaps_in(template, text)) is not None), strict=True))
    if not columns:
        return None
    pieces = template.split(GAP)
    names: list[str] = []
    for number, (before, after) in enumerate(zip(pieces, pieces[1:], strict=False)):
        name = name_of_gap(before, after, number)
        names.append(name if name not in (*names, SAYS, ITEMS) else f"{name}{number}")
    return Sentence(template, tuple(names), tuple(kind_of_gap(column, said) for column in columns))


def _signs(text: str) -> tuple[str, ...]:
    """What of a text is neither space nor part of a word."""
    return tuple(piece for piece in _PIECES.findall(text) if not piece.isspace() and not piece[0].isalnum())


def _template(texts: Sequence[str]) -> str:
    """What all texts have in common, with gaps between."""
    first = [piece for piece in _PIECES.findall(texts[0]) if not piece.isspace()]
    common = first
    for text in texts[1:MOST_COMPARED]:
        other = [piece for piece in _PIECES.findall(text) if not piece.isspace()]
        blocks = SequenceMatcher(None, common, other, autojunk=False).get_matching_blocks()
        common = [piece for block in blocks for piece in common[block.a : block.a + block.size]]
    out: list[str] = []
    at, rest = 0, texts[0]
    for piece in common:
        place = texts[0].find(piece, at)
        between = texts[0][at:place]
        out += [_gapped(between), piece]
        at = place + len(piece)
    rest = texts[0][at:]
    return "".join([*out, _gapped(rest)])


def _gapped(between: str) -> str:
    """What stands between two common pieces: spaces, and a gap where there is anything else."""
    bare = between.strip()
    start = between[: len(between) - len(between.lstrip())]
    return between if not bare else f"{start}{GAP}{between[len(between.rstrip()):]}"


def _finer(template: str, texts: Sequence[str]) -> str | None:
    """The template with those gaps divided that hold several values."""
    rows = [found for text in texts if (found := gaps_in(template, text)) is not None]
    if len(rows) < max(FEWEST, READ * len(texts)):
        return None
    pieces = template.split(GAP)
    out = [pieces[0]]
    for column, piece in zip(zip(*rows, strict=True), pieces[1:], strict=True):
        cells = [value.split("  ") for value in column]
        if all(len(found) == len(cells[0]) > 1 and all(c and c == c.strip() for c in found) for found in cells):
            out.append("  ".join([GAP] * len(cells[0])))
        else:
            out.append(" ".join([GAP] * _values_in(column)))
        out.append(piece)
    return "".join(out)


def _values_in(column: Sequence[str]) -> int:
    """How many values these texts hold, one word each but for one of them: they begin or end with identifiers or
    numbers, or with a word before one. What stands between is one value, or so many as it always has words."""
    words = [value.split(" ") for value in column]
    if not all(all(found) for found in words):
        return 1

    def numbered(at: int) -> bool:
        return all(_IDENTIFIER.fullmatch(found[at]) for found in words)

    first = last = 0
    while min(map(len, words)) > 1:
        if numbered(0) or min(map(len, words)) > 2 and numbered(1):
            words, first = [found[1:] for found in words], first + 1
        elif not first and numbered(-1):
            words, last = [found[:-1] for found in words], last + 1
        else:
            break
    sizes = {len(found) for found in words}
    return first + last + (sizes.pop() if first and len(sizes) == 1 else 1)
