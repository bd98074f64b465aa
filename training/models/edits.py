"""Observations as edits: the whole text, or a reference to an earlier observation plus a JSON Merge Patch.

Most answers of a stateful tool repeat an earlier one with small changes. `encode` writes the shortest of

    ={"whole":"body"}            the text itself
    @2{"status":"cancelled"}     observation 2 of the prompt, patched (RFC 7396)
    @2                           observation 2, unchanged

and `decode` reads it. Fields that a patch does not name are copied exactly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

REFERENCE = re.compile(r"@(\d+)", re.ASCII)


class EditError(ValueError):
    """The text is not an edit, or refers to a missing observation."""


def minify(text: str) -> str:
    """JSON without white space, with its key order; other text is stripped."""
    try:
        value = json.loads(text)
    except ValueError:
        return text.strip()
    return dumps(value) if isinstance(value, dict | list) else text.strip()


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def canonical(text: str) -> str:
    """The same text for equal JSON values: sorted keys, whole floats as integers; other text is stripped."""
    try:
        value = json.loads(text)
    except ValueError:
        return text.strip()
    return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def diff(source: Any, target: Any) -> Any:
    """The merge patch that turns `source` into `target` (RFC 7396, section 1)."""
    if not isinstance(source, dict) or not isinstance(target, dict):
        return target
    patch: dict[str, Any] = {key: None for key in source if key not in target}
    for key, value in target.items():
        if key not in source:
            patch[key] = value
        elif source[key] != value or type(source[key]) is not type(value):
            patch[key] = diff(source[key], value)
    return patch


def apply(patch: Any, source: Any) -> Any:
    """RFC 7396, section 2: null deletes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(source) if isinstance(source, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = apply(value, merged.get(key))
    return merged


def encode(target: str, sources: Sequence[str], cost: Callable[[str], int] = len) -> str:
    """The cheapest edit that yields `target`; `cost` is the cost of a text (tokens, default characters).

    `sources` are the observations, numbered from 1 in the prompt. On ties the latest whole copy is used.
    """
    target = minify(target)
    options = ["=" + target]
    for number, source in enumerate(sources, start=1):
        edit = _reference(target, minify(source), number)
        if edit is not None:
            options.append(edit)
    return min(options, key=cost)


def _reference(target: str, source: str, number: int) -> str | None:
    if canonical(target) == canonical(source):
        return f"@{number}"
    try:
        old, new = json.loads(source), json.loads(target)
    except ValueError:
        return None
    if not isinstance(old, dict) or not isinstance(new, dict):
        return None
    patch = diff(old, new)
    if apply(patch, old) != new:  # a null inside the target cannot be written as a merge patch
        return None
    return f"@{number}{dumps(patch)}"


def decode(edit: str, sources: Sequence[str]) -> str:
    """The observation of an edit. Raises EditError with the reason."""
    if edit.startswith("="):
        return edit[1:]
    match = REFERENCE.match(edit)
    if match is None:
        raise EditError(f"an edit starts with '=' or '@<number>', got {edit[:20]!r}")
    number, patch_text = int(match[1]), edit[match.end() :]
    if not 1 <= number <= len(sources):
        raise EditError(f"observation {number} does not exist; the prompt has {len(sources)}")
    source = minify(sources[number - 1])
    if not patch_text:
        return source
    try:
        patch, old = json.loads(patch_text), json.loads(source)
    except ValueError as error:
        raise EditError(f"not JSON: {error}") from error
    if not isinstance(patch, dict) or not isinstance(old, dict):
        raise EditError("a patch and what it patches are JSON objects")
    return dumps(apply(patch, old))
