"""MLflow: ``mlflow.*`` attributes whose values are JSON text, strings included."""

from __future__ import annotations

from typing import Any

import orjson

from ingest.dialects.mapping import Mapping, has
from ingest.messages.normal import Span


def _prepare(span: Span, values: dict[str, Any]) -> dict[str, Any]:
    return {k: _decoded(v) if k.startswith("mlflow.") else v for k, v in values.items()} | {"name": span.name}


def _decoded(value: Any) -> Any:
    try:
        return orjson.loads(value) if isinstance(value, str) else value
    except orjson.JSONDecodeError:
        return value


MAPPING = Mapping(
    name="mlflow",
    detect=has("mlflow.spanType", "mlflow.spanInputs", "mlflow.spanOutputs"),
    kind="mlflow.spanType",
    kinds={"chat_model": "inference", "llm": "inference", "tool": "execution", "agent": "agent", "chain": "agent"},
    conversation=("mlflow.trace.session",),
    input=("mlflow.spanInputs",),
    output=("mlflow.spanOutputs",),
    tools=("mlflow.chat.tools", "mlflow.spanInputs"),
    model=("mlflow.llm.model",),
    display_name=("name",),
    arguments=("mlflow.spanInputs",),
    result=("mlflow.spanOutputs",),
    prepare=_prepare,
)
