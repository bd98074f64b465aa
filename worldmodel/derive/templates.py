"""Texts with gaps: answers that say the same with other values in it are one form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from worldmodel.derive.values import is_number, is_scalar, shown

GAP = "\x00"
NUMBER_GAP = "\x00#"
_VARIES = re.compile(r"'[^'\n]{1,80}'|\"[^\"\n]{1,80}\"|"
                     r"(?<![\w.,])[$#]?-?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?(?!\w|,\d)|"
                     r"(?<![\w.])[$#]?-?(?:[^\W\d_]+-)*[\w@#]*\d[\w@#-]*(?:[.:][\w@-]*\d[\w@-]*)*")  # fmt: skip
_QUOTES = "'\"$"
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,14})(?:\.\d{1,9})?")
BETWEEN = ", "
"""What stands between the values of a gap that holds several."""
SAYS = "says"
"""The field of a text that has been read: which sentence it was."""


class Sentence(msgspec.Struct, frozen=True):
    """A text with named gaps in which a tool answers. The kind of a gap is `text`, `number` or `list`. `columns`, of a
    line of a table: by gap, where what follows it begins, or with a minus where it ends itself."""

    template: str
    names: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    columns: tuple[int, ...] = ()


def read(sentences: Sequence[Sentence], text: str) -> dict[str, Any] | None:
    """What a text says, as an object: its gaps by name, and which of the sentences it is; None for another text."""
    for sentence in sentences:
        found = gaps_in(sentence.template, text)
        if found is not None:
            values = map(as_kind, found, sentence.kinds)
            return {SAYS: says_of(sentence), **dict(zip(sentence.names, values, strict=True))}
    return None


def says_of(sentence: Sentence) -> str:
    """How the object that a sentence is read as names it."""
    return sentence.template.replace(GAP, "_")


def gaps_in(template: str, text: str) -> list[str] | None:
    """What stands in the gaps of a template, each as short as it can be and not empty; None for another text. In linear
    time: a regular expression would try all places of all gaps."""
    first, *rest = template.split(GAP)
    if not rest or not text.startswith(first):
        return [] if text == first else None
    at, found = len(first), []
    for piece in rest[:-1]:
        end = text.find(piece, at + 1)
        if end < 0:
            return None
        found.append(text[at:end])
        at = end + len(piece)
    end = len(text) - len(rest[-1])
    return [*found, text[at:end]] if end > at and text.endswith(rest[-1]) else None


def number_in(text: str) -> int | float | None:
    """The number that a text is; None for another text, and for digits with a zero before them, as codes have."""
    if not _NUMBER.fullmatch(text):
        return None
    return float(text) if "." in text else int(text)


def as_kind(text: str, kind: str) -> Any:
    """The value of a gap of this kind."""
    if kind == "list":
        return [_as_number(part) for part in text.split(BETWEEN)]
    return _as_number(text) if kind == "number" else text


def _as_number(text: str) -> Any:
    """The number that a text is, if it is shown as this text."""
    number = number_in(text)
    return text if number is None or shown(number) != text else number


def mask(value: Any, texts: Sequence[str], short: Sequence[str] = ()) -> tuple[Any, list[Any]]:
    """A JSON value with gaps where a number, an id, a quotation or one of `texts` stands; and what stood there. Of
    `texts`, those of one or two characters are left where they stand, unless they are also in `short`."""
    gaps: list[Any] = []
    known = {t for t in texts if len(t) >= 3} | {t for t in short if t}
    return _mask(value, sorted(known, key=lambda t: (-len(t), t)), gaps), gaps


def joined(template: Any, gaps: Sequence[Any]) -> tuple[Any, list[Any]]:
    """A text template with one gap in place of several that only commas part."""
    if not isinstance(template, str) or GAP + BETWEEN + GAP not in template:
        return template, list(gaps)
    pieces = template.split(GAP)
    kept, out = [pieces[0]], [gaps[0]]
    for piece, gap in zip(pieces[1:-1], gaps[1:], strict=True):
        if piece == BETWEEN:
            out[-1] = f"{out[-1]}{BETWEEN}{gap}"
        else:
            kept.append(piece)
            out.append(gap)
    return GAP.join([*kept, pieces[-1]]), out


def _mask(value: Any, texts: Sequence[str], gaps: list[Any]) -> Any:
    if isinstance(value, dict):
        return {k: _mask(v, texts, gaps) for k, v in value.items()}
    if isinstance(value, list):
        return [_mask(v, texts, gaps) for v in value]
    if is_number(value):
        gaps.append(value)
        return NUMBER_GAP
    if isinstance(value, str):
        return _mask_text(value, texts, gaps)
    return value


def _mask_text(text: str, texts: Sequence[str], gaps: list[Any]) -> str:
    spans: list[tuple[int, int]] = []
    for known in texts:
        start = text.find(known)
        while start >= 0:
            end = start + len(known)
            alone = not (start and _word(text[start - 1]) and _word(text[start])) and not (
                end < len(text) and _word(text[end]) and _word(text[end - 1])
            )
            if alone and not any(a < end and start < b for a, b in spans):
                spans.append((start, end))
            start = text.find(known, end)
    for match in _VARIES.finditer(text):
        start, end = match.span()
        while start < end and text[start] in _QUOTES:
            start += 1
        while end > start and text[end - 1] in "'\"":
            end -= 1
        if start < end and not any(a < end and start < b for a, b in spans):
            spans.append((start, end))
    out, last = [], 0
    for start, end in sorted(spans):
        out += [text[last:start], GAP]
        gaps.append(text[start:end])
        last = end
    return "".join([*out, text[last:]])


def _word(char: str) -> bool:
    return char.isalnum() or char == "_"


def fill(template: Any, gaps: Iterable[Any]) -> Any:
    """The value that a template stands for, with its gaps filled in order."""
    return _fill(template, iter(gaps))


def _fill(template: Any, gaps: Any) -> Any:
    if isinstance(template, dict):
        return {k: _fill(v, gaps) for k, v in template.items()}
    if isinstance(template, list):
        return [_fill(v, gaps) for v in template]
    if template == NUMBER_GAP:
        value = next(gaps, template)
        return value if is_number(value) or not is_scalar(value) else _number(value)
    if isinstance(template, str) and GAP in template:
        pieces = template.split(GAP)
        out = [pieces[0]]
        for piece in pieces[1:]:
            out += [shown(next(gaps, GAP)), piece]  # a text of production may have this character itself
        return "".join(out)
    return template


def _number(value: Any) -> Any:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return value
