"""Content in separate files: ``gen_ai.input.messages_ref`` and similar attributes (opentelemetry-util-genai).

The sender of telemetry chooses the reference, so it must not open arbitrary files. It resolves only to a file in the
directory of the trace file, or below it, by the longest matching part of its path. Data from the network has no such
directory.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson

CONTENT = ("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions",
           "gen_ai.tool.definitions")  # fmt: skip
_REFERENCES = frozenset(f"{key}_ref" for key in CONTENT)
FLAG = "external_content"
MAX_BYTES = 64 * 2**20


def with_references(attributes: dict[str, Any], source: str) -> tuple[dict[str, Any], bool]:
    """The attributes with referenced content in its place, and whether some could not be found."""
    if _REFERENCES.isdisjoint(attributes):
        return attributes, False
    missing = False
    for key in CONTENT:
        uri = attributes.get(f"{key}_ref")
        if isinstance(uri, str) and attributes.get(key) in (None, "", []):
            found = resolve(uri, source)
            missing = missing or found is None
            attributes = attributes if found is None else {**attributes, key: found}
    return attributes, missing


def resolve(uri: str, source: str) -> Any:
    """The JSON (or JSON lines, as a list) that a URI names, or None."""
    if not Path(source).is_absolute():  # it came over the network
        return None
    folder = Path(source).resolve().parent
    parts = [p for p in PurePosixPath(unquote(urlsplit(uri).path)).parts if p not in ("/", ".", "..")]
    for start in range(len(parts)):
        path = folder.joinpath(*parts[start:]).resolve()
        if path.is_relative_to(folder) and path.is_file() and path.stat().st_size <= MAX_BYTES:
            return _read(path)
    return None


def _read(path: Path) -> Any:
    data = path.read_bytes()
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return [orjson.loads(line) for line in data.splitlines() if line.strip()] or None
    except orjson.JSONDecodeError:
        return None
