"""The forms of short texts that hold several values: what they have in common, with gaps between; tables in columns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

import msgspec

from worldmodel.derive.packing import narrow, read_back, read_item
from worldmodel.derive.templates import GAP, Sentence, gaps_in
from worldmodel.learn.schema.texts import FEWEST, kind_of_gap, names_of_gaps

Seen = Sequence[tuple[str, str]]
"""Texts, each with its conversation."""
MOST, LONGEST, MOST_COMPARED = 1500, 240, 60
MOST_FORMS = 6
TABLE = 12
"""Lines from which on places where all have a space part columns."""
NAMES = 0.1
"""Conversations of which so many name a listed text as it is list names."""
READ = 0.95
"""So many of the texts must be in a known form; else none is read."""
_PIECES = re.compile(r"\s+|[^\w\s]+(?=\s|$)|[^\w\s]+(?=\w)|\w(?:\S*\w)?")
_IDENTIFIER = re.compile(r"\S*\d\S*")


def forms_of(seen: Seen, said: Mapping[str, int]) -> tuple[Sentence, ...]:
    """The forms that nearly all of these texts have, with two values or more, of which calls name some or some are
    numbers. None where there are no such forms, or where calls name the texts as they are."""
    left = sampled([(cid, text) for cid, text in seen if text], MOST)
    whole = {text for _, text in left}
    if len(whole) < 2 * FEWEST or any(GAP in text or len(text) > LONGEST for text in whole):
        return ()
    names = {text for text in whole if text in said}
    naming = {cid for cid, text in left if text in names}
    if len(names) >= FEWEST and len(naming) >= NAMES * len({cid for cid, _ in left}):
        return ()
    forms = forms_of_lines(left, said)
    found = tuple(sorted(forms, key=lambda one: (-len(one.template.replace(GAP, "")), one.template)))
    if not found or sum(read_back(found, text) is not None for _, text in left) < READ * len(left):
        return ()
    return found if any(_is_told(form, left, said) for form in found) else ()


def _is_told(form: Sentence, seen: Seen, said: Mapping[str, int]) -> bool:
    """Whether a value of a form is a number, or calls name several of its values: else its parts may be words."""
    rows = [one for _, text in seen if (one := read_item((form,), text))]
    for name, kind in zip(form.names, form.kinds, strict=True):
        if kind == "number" or len({row[name] for row in rows if isinstance(row[name], str)} & said.keys()) >= FEWEST:
            return True
    return False


def sampled(seen: Seen, most: int) -> Seen:
    """At most so many of the texts, evenly spread."""
    return seen if len(seen) <= most else [seen[int(k * len(seen) / most)] for k in range(most)]


def forms_of_lines(seen: Seen, said: Mapping[str, int]) -> list[Sentence]:
    """The forms of texts, the most frequent first, as long as three conversations have one."""
    forms: list[Sentence] = []
    left = list(seen)
    while left and len(forms) < MOST_FORMS and len({cid for cid, _ in left}) >= FEWEST:
        form = _form(left, said)
        if form is None:
            break
        forms.append(form)
        left = [(cid, text) for cid, text in left if read_item((form,), text) is None]
    return forms


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
    found = [form for form in tried if form is not None and _is_common(form, seen)]
    return max(found, key=lambda form: _values_read(form, texts), default=None)


def _is_common(form: Sentence, seen: Seen) -> bool:
    """Whether three conversations have a form: its words are said again."""
    return len({cid for cid, text in seen if read_item((form,), text)}) >= FEWEST


def _values_read(form: Sentence, texts: Sequence[str]) -> int:
    """How many values a form reads in all texts, of those that it writes again as they were."""
    return sum(len(read_back((form,), text) or ()) for text in texts)


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
    for k in range(len(cells) - 1, 0, -1):  # a cell that some lines leave empty belongs to the one before it
        if not all(columns[k]):
            cells[k - 1 : k + 1] = [(cells[k - 1][0], cells[k][1])]
            columns[k - 1 : k + 1] = [[text[cells[k - 1][0] : cells[k - 1][1]].strip(" ") for text in texts]]
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
    template = finer(_template(alike), alike)
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
    return Sentence(template, names_of_gaps(template), tuple(kind_of_gap(column, said) for column in columns))


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


def finer(template: str, texts: Sequence[str]) -> str | None:
    """The template with those gaps divided that hold several values."""
    rows = [found for text in texts if (found := gaps_in(template, text)) is not None]
    if len(rows) < max(FEWEST, READ * len(texts)):
        return None
    pieces = template.split(GAP)
    out = [pieces[0]]
    for column, piece in zip(zip(*rows, strict=True), pieces[1:], strict=True):
        stop = "." if all(len(value) > 1 and value.endswith(".") for value in column) else ""
        values = [value.removesuffix(stop) for value in column]
        cells = [value.split("  ") for value in values]
        if all(len(found) == len(cells[0]) > 1 and all(c and c == c.strip() for c in found) for found in cells):
            out.append("  ".join([GAP] * len(cells[0])))
        else:
            out.append(" ".join([GAP] * _values_in(values)))
        out.append(stop + piece)
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
