"""Embeddings, reranking, retrieval and moderation are no conversations, whatever looks like messages in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ingest_samples import chat, request, span, text

from ingest.messages.kinds import is_silent
from ingest.records import Conversation

Recover = Callable[..., list[Conversation]]
FLAT = {
    "gen_ai.prompt.0.role": "system",
    "gen_ai.prompt.0.content": "LAMP-7: 9 W.",
    "gen_ai.prompt.1.role": "user",
    "gen_ai.prompt.1.content": "Which lamp?",
    "gen_ai.completion.0.role": "assistant",
    "gen_ai.completion.0.content": "Doc 0, Score: 0.98",
}
JSON = {
    "input.value": '{"messages": [{"role": "user", "content": "Which lamp?"}]}',
    "output.value": '{"choices": [{"message": {"role": "assistant", "content": "0.98"}}]}',
}
OTEL = {
    "gen_ai.input.messages": '[{"role": "user", "parts": [{"type": "text", "content": "Which lamp?"}]}]',
    "gen_ai.output.messages": '[{"role": "assistant", "parts": [{"type": "text", "content": "0.98"}]}]',
}


@pytest.mark.parametrize(
    "said",
    [
        {"llm.request.type": "rerank", **FLAT},
        {"llm.request.type": "embedding", **FLAT},
        {"llm.request.type": "aembedding", **FLAT},
        {"llm.request.type": "amoderation", **FLAT},
        {"gen_ai.operation.name": "embeddings", **OTEL},
        {"gen_ai.operation.name": "retrieval", **OTEL},
        {"gen_ai.operation.name": "search_memory", **OTEL},
        {"openinference.span.kind": "EMBEDDING", **JSON},
        {"openinference.span.kind": "RERANKER", **JSON},
        {"openinference.span.kind": "RETRIEVER", **JSON},
        {"openinference.span.kind": "GUARDRAIL", **JSON},
        {
            "langfuse.observation.type": "embedding",
            "langfuse.observation.input": JSON["input.value"],
            "langfuse.observation.output": JSON["output.value"],
        },
        {"langfuse.observation.type": "retriever", "langfuse.observation.input": JSON["input.value"]},
        {"mlflow.spanType": "RETRIEVER", "mlflow.spanInputs": JSON["input.value"]},
        {"langsmith.span.kind": "retriever", "gen_ai.prompt": JSON["input.value"]},
        {"ai.operationId": "ai.embed.doEmbed", "ai.prompt.messages": '[{"role": "user", "content": "x"}]'},
        {"acme.operation": "embeddings", "acme.input": '[{"role": "user", "content": "x"}]'},
        {"ai.operationId": "ai.rerank", "ai.prompt": '{"prompt": "x"}'},
    ],
)
def test_spans_of_silent_kinds_are_no_conversation(said: dict[str, Any], recover: Recover) -> None:
    asked, answered = text("user", "Hi."), text("assistant", "Hello.")
    found = recover(
        request(span(1, 1, "run", {}, took=9), span(1, 2, "it", said, at=1), chat(1, 3, 2, [asked], [answered], None))
    )
    assert [[m["content"] for m in c.messages] for c in found] == [["Hi.", "Hello."]]


@pytest.mark.parametrize(
    "word",
    [
        "chat",
        "completion",
        "text_completion",
        "LLM",
        "generation",
        "AGENT",
        "TOOL",
        "tool",
        "ai.generateText.doGenerate",
        "retrieve_and_generate",
        "invoke_agent",
    ],
)
def test_spans_of_other_kinds_can_be_conversations(word: str) -> None:
    assert not is_silent(word)
