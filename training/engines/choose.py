"""Which engine samples: chosen by a setting, known nowhere else."""

from __future__ import annotations

from ingest.errors import UserError
from training.engines import Engine
from training.engines.local import LocalEngine
from training.engines.vllm import VllmEngine, VllmSettings
from training.engines.vllm_server import VllmServer
from training.models.base import Base


def open_engine(name: str, base: Base, vllm: VllmSettings | None = None) -> Engine:
    """An engine for a base model: `transformers` (in this process) or `vllm`. Raises UserError for another name."""
    if name == "transformers":
        return LocalEngine(base.model, base.format.pad_id)
    if name == "vllm":
        return VllmServer(base.path, vllm.server) if vllm and vllm.server else VllmEngine(base.path, vllm)
    raise UserError(f"there is no engine {name!r}; expected 'transformers' or 'vllm'")
