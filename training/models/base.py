"""Loads the frozen base model that all four adapters share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import logging

from ingest.errors import UserError
from training.models.chat import COMPACT, FORMAT, ChatFormat, CompactFormat
from training.models.devices import DeviceSettings, placement
from training.models.template import ChatSettings
from training.models.template_checks import checked_format

SHIPPED = {"rehearsal-tiny": Path(__file__).parents[1] / "tiny" / "rehearsal-tiny"}


@dataclass(frozen=True)
class Base:
    """A loaded base: its weights (frozen, in evaluation mode), its chat format, and its source."""

    model: PreTrainedModel
    format: ChatFormat
    path: str
    name: str


def base_path(name: str) -> str:
    """The path of a shipped base; a directory or Hugging Face id is returned unchanged."""
    return str(SHIPPED.get(name, name))


def is_compact(name: str) -> bool:
    """Whether a base declares the compact chat format (`rehearsal_format` in its tokenizer_config.json).

    Its policy's prompts contain neither system prompts nor tool definitions. A base that is not found is not compact.
    """
    path = base_path(name)
    if Path(path).is_dir():
        return _declares_compact(path)
    return not _is_local(path) and _hub_declares_compact(path)


def _declares_compact(path: str) -> bool:
    try:
        return get_tokenizer_config(path).get(FORMAT) == COMPACT
    except (OSError, ValueError):
        return False


_hub_declares_compact = lru_cache(_declares_compact)
"""Asks the Hub once a process, because it can be a request."""


def load_format(
    name: str = "rehearsal-tiny", show_tools: bool = True, settings: ChatSettings | None = None
) -> ChatFormat:
    """The chat format of a base, without its weights.

    Raises UserError if there is no such base, or if its chat template cannot be used for training (with the reason).
    """
    tokenizer = _load(AutoTokenizer, name)
    if tokenizer.init_kwargs.get(FORMAT) == COMPACT:
        return CompactFormat(tokenizer, show_tools=show_tools)
    if not tokenizer.chat_template:
        raise UserError(f"base model {name!r} has no chat template; choose an instruction-tuned model")
    try:
        return checked_format(tokenizer, _generation_config(name), settings, show_tools)
    except UserError as error:
        raise UserError(f"base model {name!r} cannot be used: {error}") from error


def _generation_config(name: str) -> GenerationConfig | None:
    try:
        return GenerationConfig.from_pretrained(base_path(name))
    except OSError:  # without generation_config.json the tokenizer's end-of-sequence token ends turns
        return None


def load_base(
    name: str = "rehearsal-tiny",
    show_tools: bool = True,
    dtype: torch.dtype | None = None,
    devices: DeviceSettings | None = None,
    chat: ChatSettings | None = None,
) -> Base:
    """Load a base model by shipped name, directory or Hugging Face id, placed by `placement`.

    `chat` says how its template writes conversations; the shipped base has its own format and ignores it.
    A shipped base is small: it stays on the CPU in float32 unless a device is set. Raises UserError if the base is
    missing or cannot be placed.
    """
    if name in SHIPPED and devices is None and not DeviceSettings().device:
        devices = DeviceSettings(device="cpu", dtype="float32", quantize="none")
    place = placement(devices)
    model = _load(AutoModelForCausalLM, name, **{**place.load_options(), **({"dtype": dtype} if dtype else {})})
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return Base(model, load_format(name, show_tools, chat), base_path(name), name)


def context_length(config: PreTrainedConfig) -> int:
    """Maximum context of a model in tokens; 2 ** 30 if its configuration has no limit."""
    text = config.get_text_config()
    known = [getattr(text, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len")]
    return next((n for n in known if isinstance(n, int) and n > 0), 1 << 30)


def sliding_window(config: PreTrainedConfig) -> int | None:
    """The number of tokens that the layers with sliding attention see; None for a model without such layers."""
    window = getattr(config, "sliding_window", None)
    return window if window and getattr(config, "use_sliding_window", True) else None


def load_context(name: str) -> int:
    """The context length of a base in tokens, without its weights. Raises UserError if there is no such base."""
    return context_length(_load(AutoConfig, name))


@contextmanager
def _quiet(wanted: bool) -> Iterator[None]:
    """Hide transformers' progress bar while a small model loads."""
    if not wanted or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def _is_local(path: str) -> bool:
    """Whether a name can only be a directory: an id of the Hub is `owner/name`."""
    return Path(path).is_absolute() or path.startswith((".", "~", "artifacts/")) or path.rstrip("/").count("/") > 1


def _load(loader: type, name: str, **kwargs: object):  # type: ignore[no-untyped-def]
    path = base_path(name)
    if name in SHIPPED and not Path(path).is_dir():
        raise UserError(f"the shipped base model {name!r} is missing from this installation; reinstall rehearsal")
    if _is_local(path) and not Path(path).exists():  # a hub would be asked for it, again and again
        how = "; `make smollm2` makes it" if path.endswith("smollm2") else ""
        raise UserError(f"base model {name!r} was not found: no such directory{how}")
    try:
        with _quiet(name in SHIPPED or not sys.stderr.isatty()):
            return loader.from_pretrained(path, **kwargs)  # type: ignore[attr-defined]
    except (OSError, ValueError) as error:
        raise UserError(
            f"base model {name!r} was not found; expected 'rehearsal-tiny', a model directory or a Hugging Face id "
            f"that can be downloaded ({type(error).__name__})"
        ) from error
