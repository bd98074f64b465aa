"""Texts with gaps: answers that say the same with other values in it are one form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from worldmodel.derive.values import is_number, is_scalar, shown

GAP = "\x00"
NUMBER_GAP = "\x00#"
_VARIES = re.compile(r"'[^'\n]{1,80}'|\"[^\"\n]{1,80}\"|(?<![\w.])[$#]?-?[\w@#]*\d[\w@#-]*(?:[.:][\w@-]*\d[\w@-]*)*")
_QUOTES = "'\"$"


def mask(value: Any, texts: Sequence[str]) -> tuple[Any, list[Any]]:
    """A JSON value with gaps where a number, an id, a quotation or one of `texts` stands; and what stood there."""
    gaps: list[Any] = []
    return _mask(value, sorted({t for t in texts if len(t) >= 3}, key=lambda t: (-len(t), t)), gaps), gaps


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
