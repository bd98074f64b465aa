"""What a part or a span says that it is: the words of all vendors for one kind, in one spelling.

``tool_use``, ``tool-call``, ``ToolCallBlock`` and ``ResponseFunctionToolCall`` differ in case, separators and in what a
class is called besides; ``plain`` leaves those out, so that each word stands once in a table.
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
# Known, and neither said nor a tool's: media, sources, and what the items of a response say about the exchange itself.
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
    """What a part says that it is, spelled plainly; "" if it says nothing."""
    told = x.get("type") or x.get("kind") or x.get("part_kind") or x.get("block_type")
    return plain(told) if isinstance(told, str) else ""


@lru_cache(maxsize=4096)
def plain(name: str) -> str:
    """A kind's name in lower case without separators and without what names the class only."""
    word = _SEPARATORS.sub("", name.lower())
    word = _CLASSES.sub("", word)
    return _WRAPPERS.sub("", word) or word


@lru_cache(maxsize=4096)
def is_call(kind: str) -> bool:
    """Whether parts of a kind ask for a tool."""
    return kind in _CALLS or kind.endswith(_CALL_ENDS)


@lru_cache(maxsize=4096)
def is_result(kind: str) -> bool:
    """Whether parts of a kind are what a tool answered."""
    return kind.endswith(_RESULT_ENDS)


@lru_cache(maxsize=4096)
def is_hosted(kind: str) -> bool:
    """Whether parts of a kind are calls that the model's provider makes and answers, told as one: ``mcp_call``,
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
    """The attributes, of those with these names, in which a span says what it is."""
    return tuple(_NAMES.intersection(names))


@lru_cache(maxsize=1024)
def is_silent(word: str) -> bool:
    """Whether a span's own word for itself says that nobody converses in it, whatever looks like messages there."""
    said = plain(word)
    return said in _SILENT or any(w in said for w in _SILENT_WORDS) or said.endswith(("memory", "memorystore"))
