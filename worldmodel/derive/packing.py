"""Texts that hold several values, read as objects and written again: `W-12 | blue mug | 3 left` in a list, or a text
with a line for each record. Reading and writing are inverse, so rules see objects and agents see production's texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from worldmodel.derive.templates import BETWEEN, GAP, SAYS, Sentence, as_kind, gaps_in, says_of
from worldmodel.derive.values import is_scalar, shown

_WIDE = re.compile(" {2,}")
BLOCK = "\x01"
"""Stands in a text for its repeated part."""
LINES = 300
"""Texts of so many lines are not read."""
ITEMS = "items"
"""The field of a text that has been read: its repeated part, as a list of objects."""


class Packing(msgspec.Struct, frozen=True):
    """How the answers of one tool hold values in texts. `lists`: by the path of a list of texts, the forms of its
    items. `items` and `heads`: of answers that are texts, the forms of the repeated part, whose parts `between`
    separates, and of what stands around it."""

    lists: dict[str, tuple[Sentence, ...]] = {}
    items: tuple[Sentence, ...] = ()
    heads: tuple[Sentence, ...] = ()
    between: str = "\n"

    def unpack(self, body: Any) -> Any:
        """The body with objects in place of its texts; what is not in a known form stays as it is."""
        if isinstance(body, str):
            return self._text(body) if self.heads and body.count("\n") < LINES else body
        for path, forms in self.lists.items():
            texts = value_at(body, path)
            if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
                objects = [one for text in texts if (one := read_back(forms, text)) is not None]
                if len(objects) == len(texts):
                    body = _with(body, path, objects)
        return body

    def pack(self, body: Any) -> Any:
        """The inverse of `unpack`; None for what cannot be written."""
        if self.heads and isinstance(body, dict) and SAYS in body:
            return self._written(body)
        for path, forms in self.lists.items():
            objects = value_at(body, path)
            if isinstance(objects, list) and any(isinstance(one, dict) for one in objects):
                texts = [write_item(forms, one) if isinstance(one, dict) else one for one in objects]
                if any(text is None for text in texts):
                    return None
                body = _with(body, path, texts)
        return body

    def _text(self, text: str) -> Any:
        around, parts = split_block(self.items, self.between, text)
        for head in self.heads:
            gapped = head.template if parts or BLOCK not in head.template else without_block(head.template)
            found = _values(msgspec.structs.replace(head, template=gapped), around) if gapped else None
            if found is None or (BLOCK in gapped) != bool(parts):
                continue
            body = {SAYS: says_of(head), **dict(zip(head.names, found, strict=True))}
            if BLOCK in head.template:
                body[ITEMS] = [read_item(self.items, part) for part in parts]
            if self._written(body) == text:
                return body
        return text

    def _written(self, body: Mapping[str, Any]) -> str | None:
        head = next((one for one in self.heads if says_of(one) == body[SAYS]), None)
        objects = body.get(ITEMS, [])
        if head is None or not isinstance(objects, list):
            return None
        parts = [write_item(self.items, one) if isinstance(one, dict) else None for one in objects]
        texts = [part for part in parts if part is not None]
        if not parts and BLOCK in head.template:
            head = msgspec.structs.replace(head, template=without_block(head.template))
        around = _filled(head, body) if head.template else None
        if around is None or len(texts) < len(parts) or (BLOCK in around) != bool(parts):
            return None
        return around.replace(BLOCK, self.between.join(texts))


def without_block(template: str) -> str:
    """A form without the line of its repeated part, which is empty; nothing where that is no line of its own."""
    lines = template.split("\n")
    return "\n".join(line for line in lines if line != BLOCK) if BLOCK in lines and len(lines) > 1 else ""


def split_block(items: Sequence[Sentence], between: str, text: str) -> tuple[str, list[str]]:
    """What stands around the repeated part of a text, with BLOCK in its place, and its parts; none where the text has
    no such part."""
    if BLOCK in text or not items:
        return text, []
    if between == "\n":
        lines = text.split("\n")
        at = [k for k, line in enumerate(lines) if read_item(items, line) is not None]
        if not at or at[-1] - at[0] + 1 != len(at):
            return text, []
        return "\n".join([*lines[: at[0]], BLOCK, *lines[at[-1] + 1 :]]), [lines[k] for k in at]
    head, colon, rest = text.partition(": ")
    end = "." if rest.endswith(".") else ""
    parts = rest.removesuffix(end).split(between) if colon and rest else []
    if not parts or any(read_item(items, part) is None for part in parts):
        return text, []
    return f"{head}{colon}{BLOCK}{end}", parts


def read_item(forms: Sequence[Sentence], text: str) -> dict[str, Any] | None:
    """The values of one text. Which form it has is said only if there are several."""
    for form in forms:
        values = _values(form, text)
        if values is not None:
            told = {} if len(forms) == 1 else {SAYS: says_of(form)}
            return {**told, **dict(zip(form.names, values, strict=True))}
    return None


def _values(form: Sentence, text: str) -> list[Any] | None:
    """What stands in the gaps of a text; None for another text, and where it is not clear: a value has what parts
    values, or a number is none."""
    found = _cells(form, text) if form.columns else gaps_in(form.template, text)
    if found is None:
        return None
    signs = [piece for piece in form.template.split(GAP)[1:-1] if piece.strip() and not piece.strip()[0].isalnum()]
    values = [as_kind(value, kind) for value, kind in zip(found, form.kinds, strict=True)]
    for value, read_, kind in zip(found, values, form.kinds, strict=True):
        if "\n" in value or kind == "number" and isinstance(read_, str):
            return None
        if kind != "list" and any(sign in value for sign in signs):
            return None
    return values


def _cells(form: Sentence, text: str) -> list[str] | None:
    """What stands in the columns of a line of a table; None for another line."""
    first, *pieces = form.template.split(GAP)
    if not text.startswith(first):
        return None
    at, found = len(first), []
    for k, (piece, column) in enumerate(zip(pieces, form.columns, strict=True)):
        after = form.columns[k + 1] if k + 1 < len(pieces) else 0
        if column > 0:
            if text[column - 1 : column] != " ":  # a value that is wider than its column
                return None
            value, at, piece = text[at:column], column, piece.lstrip(" ")
        elif column < 0:
            value, at = text[at:-column], -column
        elif after < 0:  # what follows is one word and ends in its column
            place = text.rfind(" ", at, -after)
            if place < at:
                return None
            value, at, piece = text[at:place], place + 1, ""
        else:
            place = text.find(piece, at + 1) if k + 1 < len(pieces) else len(text) - len(piece)
            value, at = text[at:place] if place > at else "", place
        if not value.strip(" ") or not text.startswith(piece, at):
            return None
        found.append(value.strip(" "))
        at += len(piece)
    return found if at == len(text) else None


def narrow(text: str) -> str:
    """A line of a table with one space between its columns. How far it is indented stays."""
    bare = text.lstrip(" ")
    return text[: len(text) - len(bare)] + _WIDE.sub(" ", bare)


def write_item(forms: Sequence[Sentence], values: Mapping[str, Any]) -> str | None:
    """The inverse of `read_item`; None where a value is missing."""
    form = next((one for one in forms if len(forms) == 1 or says_of(one) == values.get(SAYS)), None)
    return None if form is None else _filled(form, values)


def read_back(forms: Sequence[Sentence], text: str) -> dict[str, Any] | None:
    """The values of a text that would be written again as it is; None for another one."""
    found = read_item(forms, text)
    return found if found is not None and write_item(forms, found) == text else None


def _filled(form: Sentence, values: Mapping[str, Any]) -> str | None:
    texts = []
    for name, kind in zip(form.names, form.kinds, strict=True):
        value = values.get(name)
        if kind == "list" and isinstance(value, list) and value and all(map(is_scalar, value)):
            texts.append(BETWEEN.join(map(shown, value)))
        elif is_scalar(value) and value not in (None, ""):
            texts.append(shown(value))
        else:
            return None
    pieces = form.template.split(GAP)
    if not form.columns:
        return "".join([pieces[0], *(t + piece for t, piece in zip(texts, pieces[1:], strict=True))])
    out = pieces[0]
    for text, piece, column in zip(texts, pieces[1:], form.columns, strict=True):
        if column < 0:
            out = out.rstrip(" ")
            text = text.rjust(-column - len(out))
        out += text
        out = out.ljust(column) + piece.lstrip(" ") if column > 0 else out + piece
    return out


def value_at(body: Any, path: str) -> Any:
    """The value at a dotted path; the body itself for an empty one; None where nothing is."""
    for name in path.split(".") if path else ():
        body = body.get(name) if isinstance(body, dict) else None
    return body


def _with(body: Any, path: str, value: Any) -> Any:
    """A copy of a body with another value at a path."""
    if not path:
        return value
    name, _, rest = path.partition(".")
    return {**body, name: _with(body[name], rest, value)}
