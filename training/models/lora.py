"""Adapters on a frozen base, in peft's format, never merged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from transformers import PreTrainedModel

from ingest.errors import UserError
from training.directories import replace_directory, restore_directory
from training.manifests import MANIFEST
from training.manifests import manifest_of as manifest_of
from training.models.lora_layers import read_adapter
from training.models.parallel import is_first, wait_for_all


class LoraSettings(BaseModel):
    """The shape of an adapter. The defaults follow "LoRA without regret": all linear layers, alpha 32."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(16, ge=1, description="Rank of the factors.")
    alpha: int = Field(32, ge=1, description="Scale: the update is alpha / rank times B A.")
    target_modules: str | list[str] = Field("all-linear", description="Layers that are adapted; all but the head.")


def new_adapter(model: PreTrainedModel, settings: LoraSettings, seed: int = 0) -> PeftModel:
    """A trainable adapter beside the frozen weights of `model`, which is wrapped in place."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=settings.target_modules,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def adapter_weights(model: PeftModel) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """A copy of the adapter's weights and its configuration, as an engine takes them."""
    weights = {k: v.detach().clone() for k, v in get_peft_model_state_dict(model).items()}
    return weights, json.loads(json.dumps(model.peft_config["default"].to_dict(), default=sorted))


def save_weights(
    weights: Mapping[str, torch.Tensor], config: Mapping[str, Any], path: Path, manifest: Mapping[str, Any]
) -> None:
    """Write a peft directory with our manifest. A kill leaves the old adapter or the new one.

    Of several processes that train together, the first one writes and the others wait.
    """
    if not is_first():
        return wait_for_all()
    restore_directory(path)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in weights.items()}, partial / "adapter_model.safetensors")
    (partial / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True))
    replace_directory(partial, path)
    wait_for_all()


def save_adapter(model: PeftModel, path: Path, manifest: Mapping[str, Any]) -> None:
    save_weights(*adapter_weights(model), path, manifest)


def load_weights(model: PeftModel, path: Path) -> None:
    """Load a saved adapter's weights into a model that was created with the same settings.

    Raises UserError if there is no adapter, or if its shape differs: peft would silently skip missing factors, and
    training would start from a part of the adapter.
    """
    weights, _ = read_adapter(path)
    shapes = {k: tuple(v.shape) for k, v in get_peft_model_state_dict(model).items()}
    strange = sorted(k for k in shapes.keys() | weights.keys() if k not in weights or shapes.get(k) != weights[k].shape)
    if strange:
        raise UserError(
            f"the adapter in {path} has another shape than this run's ({len(strange)} factors differ, first "
            f"{strange[0]}); use the base model, rank and target modules that it was trained with"
        )
    set_peft_model_state_dict(model, weights)


def settings_of(path: Path) -> LoraSettings:
    """The settings of a saved adapter."""
    _, config = read_adapter(path)
    names = {"rank": "r", "alpha": "lora_alpha", "target_modules": "target_modules"}
    return LoraSettings.model_validate({ours: config[theirs] for ours, theirs in names.items()})
