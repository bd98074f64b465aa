"""Decides the placement of a base: device, dtype, quantisation, attention.

`accelerate` gives the device of this process (each process of `accelerate launch` has its own). Learner and engines use
the device of the base that they get.
"""

from __future__ import annotations

import copy
import importlib.util
import multiprocessing
import os
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from accelerate import PartialState
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from torch import nn

from ingest.errors import UserError

M = TypeVar("M", bound=nn.Module)

LARGE = 1_000_000_000
"""From this number of parameters on, activations are recomputed in the backward pass by default."""


class DeviceSettings(BaseSettings):
    """Placement settings. Each field is REHEARSAL_<NAME> in the environment, so that subprocesses use it too."""

    model_config = SettingsConfigDict(env_prefix="REHEARSAL_", extra="ignore", frozen=True)

    device: str = Field("", description="cpu, cuda, cuda:1, mps, ...; empty: the device that accelerate selects.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Type of the frozen weights; auto: bfloat16 on accelerators, float32 on CPUs, where small models "
        "are sampled in bfloat16 if that is fast. float32: they are sampled in float32.",
    )
    quantize: Literal["none", "4bit"] = Field("none", description="4bit: NF4 weights by bitsandbytes (QLoRA).")
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field("sdpa", description="The learner's attention.")


@dataclass(frozen=True)
class Placement:
    """A device, dtype, quantisation and attention implementation."""

    device: torch.device
    dtype: torch.dtype
    quantize: str = "none"
    attention: str = "sdpa"

    def load_options(self) -> dict[str, Any]:
        """Arguments for `from_pretrained`."""
        options: dict[str, Any] = {"dtype": self.dtype, "attn_implementation": self.attention}
        if self.quantize == "4bit":
            from transformers import BitsAndBytesConfig

            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=self.dtype
            )
        if self.device.type != "cpu" or self.quantize != "none":
            options["device_map"] = {"": str(self.device)}
        return options


def placement(settings: DeviceSettings | None = None) -> Placement:
    """Decide the placement. Raises UserError for a missing device, or a setting that this machine does not support."""
    try:
        settings = settings or DeviceSettings()
        device = _own_device(settings)
    except (ValidationError, RuntimeError) as error:
        raise UserError(f"REHEARSAL_DEVICE, _DTYPE, _QUANTIZE or _ATTENTION: {_first_line(error)}") from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"device {str(device)!r} does not exist: {torch.cuda.device_count()} CUDA devices were found")
    if settings.quantize == "4bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("4-bit bases need bitsandbytes; pip install 'rehearsal[quantized]'")
    if settings.attention == "flash_attention_2" and device.type != "cuda":
        raise UserError(f"flash_attention_2 needs a CUDA device, not {device}; use sdpa")
    return Placement(device, _dtype(settings.dtype, device), settings.quantize, settings.attention)


def _own_device(settings: DeviceSettings) -> torch.device:
    """The setting's device, or this process's own device under `accelerate launch`.

    Worker subprocesses of a launched process use its device and join no process group.
    """
    if multiprocessing.parent_process() is not None:
        place = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
        return torch.device(settings.device or place)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or not settings.device:
        state = PartialState(cpu=settings.device == "cpu")
        return state.device if not settings.device else torch.device(settings.device)
    return torch.device(settings.device)


def _dtype(wanted: str, device: torch.device) -> torch.dtype:
    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def quick_dtype() -> torch.dtype:
    """The type of products on this CPU: bfloat16 where it has instructions for it (AMX, AVX-512), unless
    REHEARSAL_DTYPE is float32; else float32. Without these, bfloat16 products take several times as long.
    """
    has = torch.cpu.get_capabilities()
    quick = (has.get("amx_bf16") or has.get("avx512_bf16")) and DeviceSettings().dtype != "float32"
    return torch.bfloat16 if quick else torch.float32


def autocasts(wanted: bool | None, device: torch.device) -> bool:
    """Whether products are computed in bfloat16; with None, where the device multiplies it fast."""
    if wanted is not None:
        return wanted
    if device.type == "cpu":
        return quick_dtype() == torch.bfloat16
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def sharing_weights(model: M) -> M:
    """A copy of a frozen model's modules that shares its weights, so that learner and engine can wrap their own layers
    around one set of tensors. The weights must not be written to.
    """
    held = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in held})


def plain_weights(model: nn.Module) -> bool:
    """Whether the weights of linear layers can be multiplied directly; quantised ones cannot."""
    return getattr(getattr(model, "config", None), "quantization_config", None) is None


def recomputes(wanted: bool | None, model: nn.Module) -> bool:
    """Whether activations are recomputed: `wanted` if given, else for large models."""
    return wanted if wanted is not None else sum(p.numel() for p in model.parameters()) >= LARGE


def _first_line(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    return str(error).strip().splitlines()[0]
