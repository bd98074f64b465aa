"""The declared kinds of parts and spans: the words of all vendors for a kind, in one spelling.

``tool_use``, ``tool-call``, ``ToolCallBlock`` and ``ResponseFunctionToolCall`` differ in case, separators and parts of
the class name. ``plain`` removes these, so that each word is in the tables once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

_SEPARATORS = re.compile(r"[^a-z0-9]+")
_WRAPPERS = re.compile(r"(?:block|part|content|param|item|chunk)+$")
_CLASSES = re.compile(r"^(?:chatcompletion(?:message)?|response|beta)(?=[a-z])")

TEXT = {"text", "inputtext", "outputtext", "refusal", "outputrefusal", "summarytext", "textdelta", "plaintext",
        "generation", "generationchunk"}  # fmt: skip
SPEECH = {"audio", "inputaudio", "outputaudio"}  # text where a transcript is told
REASONING = {"reasoning", "thinking", "redactedthinking", "redactedreasoning", "reasoningtext", "thought"}
# Known kinds that are neither text nor of a tool: media, sources, and items about the exchange itself.
QUIET = {"image", "imageurl", "inputimage", "audio", "inputaudio", "outputaudio", "video", "videourl", "file",
         "inputfile", "document", "documenturl", "blob", "uri", "url", "media", "filedata", "inlinedata", "source",
         "sourceurl", "sourcedocument", "compaction", "cachepoint", "searchresult", "stepstart", "containerupload",
         "mcplisttools", "mcpapprovalrequest", "mcpapprovalresponse", "itemreference", "toolreference",
         "citation"}  # fmt: skip
_CALLS = {"toolcall", "tooluse", "functioncall", "function", "customtoolcall", "toolrequest", "functiontoolcall",
          "messagefunctiontoolcall", "messagetoolcall", "invalidtoolcall"}  # fmt: skip
_CALL_ENDS = ("tooluse", "servertoolcall", "builtintoolcall", "servertooluse")
_RESULT_ENDS = ("toolresult", "toolreturn", "toolcallresponse", "calloutput", "toolresponse", "functionresponse",
                "functionresult", "toolerror", "toolcallresult", "functionexecutionresult",
                "toolsearchoutput")  # fmt: skip
_HOSTED = {"toolexecution"}


def kind_of(x: dict[str, Any]) -> str:
    """Return the declared kind of a part in plain spelling; "" if it declares none."""
    told = x.get("type") or x.get("kind") or x.get("part_kind") or x.get("block_type") or x.get("content_type")
    return plain(told) if isinstance(told, str) else ""


@lru_cache(maxsize=4096)
def plain(name: str) -> str:
    """Return a kind's name in lower case without separators and class prefixes and suffixes."""
    word = _SEPARATORS.sub("", name.lower())
    word = _CLASSES.sub("", word)
    return _WRAPPERS.sub("", word) or word


@lru_cache(maxsize=4096)
def is_call(kind: str) -> bool:
    """Whether parts of a kind are tool calls."""
    return kind in _CALLS or kind.endswith(_CALL_ENDS)


@lru_cache(maxsize=4096)
def is_result(kind: str) -> bool:
    """Whether parts of a kind are tool results."""
    return kind.endswith(_RESULT_ENDS)


@lru_cache(maxsize=4096)
def is_hosted(kind: str) -> bool:
    """Whether parts of a kind are calls of provider-executed tools with their results: ``mcp_call``,
    ``web_search_call``, ``code_interpreter_call``, ``tool.execution``."""
    return kind in _HOSTED or (kind.endswith("call") and not is_call(kind))


# ------------------------------------------------------------------------------------------------- spans

_KEYS = ("gen_ai.operation.name", "llm.request.type", "openinference.span.kind", "traceloop.span.kind",
         "langfuse.observation.type", "mlflow.spanType", "langsmith.span.kind", "ai.operationId", "operation.name",
         "lk.operation", "genkit:metadata:subtype", "genkit:type")  # fmt: skip
_NAMES = frozenset(_KEYS)
_SILENT = {"retrieval", "retriever", "retrieve", "guardrail", "evaluator", "tokenize", "tokencount", "counttokens"}
_SILENT_WORDS = ("embed", "rerank", "moderation")


def kind_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the attributes among ``names`` that declare a span's kind."""
    return tuple(_NAMES.intersection(names))


@lru_cache(maxsize=1024)
def is_silent(word: str) -> bool:
    """Whether a span's declared kind has no conversation (embeddings, reranking, retrieval, memory)."""
    said = plain(word)
    return said in _SILENT or any(w in said for w in _SILENT_WORDS) or said.endswith(("memory", "memorystore"))
