"""Decoding under a JSON schema: which tokens may come next (llguidance, which vLLM uses as well).

The masks are of bytes, not of whole tokens, so a tokenizer that splits a number anywhere still writes only what the
schema allows.
"""

from __future__ import annotations

import json
import weakref
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ingest.errors import UserError

COMPACT: Any = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
"""JSON is written without white space, as observations are shown."""


class UnusableSchema(UserError):
    """The engine's grammar library cannot follow a JSON schema."""


@dataclass(frozen=True)
class Grammar:
    """A JSON schema, as text, and the tokenizer whose tokens are masked. Two of one schema are equal."""

    schema: str
    tokenizer: Any
    stop_id: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grammar) and (self.schema, self.stop_id) == (other.schema, other.stop_id)

    def __hash__(self) -> int:
        return hash((self.schema, self.stop_id))

    def compact_schema(self) -> str:
        """The schema with llguidance's option for JSON without white space, for engines that start it themselves."""
        return json.dumps({**json.loads(self.schema), "x-guidance": COMPACT})

    def start(self) -> Matcher:
        """A matcher at the start of the schema. Raises UnusableSchema where llguidance cannot follow the schema."""
        from llguidance import LLMatcher

        matcher = LLMatcher(_tokens(self.tokenizer, self.stop_id), _compiled(self.schema))
        if matcher.is_error():
            raise UnusableSchema(f"the grammar library cannot process a schema: {matcher.get_error()}")
        return Matcher(matcher)


class Matcher:
    """Where one text stands in its grammar."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher
        self._read = 0

    def allowed(self, ids: list[int], size: int) -> np.ndarray:
        """Of the first `size` tokens, which may follow `ids`; `ids` goes on from the last call's."""
        for token in ids[self._read :]:
            self._matcher.consume_token(token)
        self._read = len(ids)
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        bits = np.unpackbits(mask, bitorder="little")[:size].astype(bool)
        return bits if len(bits) == size else np.pad(bits, (0, size - len(bits)))


@lru_cache(maxsize=512)
def _compiled(schema: str) -> str:
    from llguidance import LLMatcher

    return str(LLMatcher.grammar_from_json_schema(schema, overrides=COMPACT))


_KNOWN: weakref.WeakKeyDictionary[Any, dict[int, Any]] = weakref.WeakKeyDictionary()


def _tokens(tokenizer: Any, stop_id: int) -> Any:
    """The tokenizer as llguidance reads it; made once, which takes a while for a large vocabulary."""
    from llguidance.hf import from_tokenizer

    of_tokenizer = _KNOWN.setdefault(tokenizer, {})
    if stop_id not in of_tokenizer:
        of_tokenizer[stop_id] = from_tokenizer(tokenizer, eos_token=stop_id)
    return of_tokenizer[stop_id]
