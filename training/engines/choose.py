"""Opens the engine that the setting `engine` names."""

from __future__ import annotations

from importlib.util import find_spec

from ingest.errors import UserError
from training.engines import Engine
from training.engines.local import LocalEngine
from training.engines.vllm import VllmEngine, VllmSettings
from training.engines.vllm_server import VllmServer
from training.models.base import Base


def check_engine(name: str, server: str = "") -> None:
    """Raise UserError for an engine that is unknown or not installed; a `server` needs no vLLM here. Starts nothing."""
    if name not in ("transformers", "vllm"):
        raise _unknown(name)
    if name == "vllm" and not server and find_spec("vllm") is None:
        raise UserError("vLLM is not installed; run `make vllm` (CPU) or pip install 'rehearsal[vllm]' (GPU)")


def open_engine(name: str, base: Base, vllm: VllmSettings | None = None) -> Engine:
    """An engine for a base model: `transformers` (in this process) or `vllm`. Raises UserError for other names."""
    if name == "transformers":
        return LocalEngine(base.model, base.format.pad_id)
    if name == "vllm":
        if vllm and vllm.server:
            return VllmServer(base.path, vllm.server, vllm.restart_seconds)
        return VllmEngine(base.path, vllm)
    raise _unknown(name)


def _unknown(name: str) -> UserError:
    return UserError(f"there is no engine {name!r}; expected 'transformers' or 'vllm'")
