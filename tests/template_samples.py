"""Tokenizers of bytes with the chat templates of real model families, which the package trl ships."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

FIXTURES = Path(__file__).parent / "training" / "models" / "templates"
HERMES = ("<tool_call>", "</tool_call>")
QWEN = ("<think>", "</think>", *HERMES, "<tool_response>", "</tool_response>")
CHATML = ("<|im_start|>", "<|im_end|>")
LLAMA = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>", "<|eom_id|>")
GEMMA = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
GEMMA4 = (
    *("<bos>", "<eos>", "<|turn>", "<turn|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>"),
    *("<|tool>", "<tool|>", '<|"|>', "<|channel>", "<channel|>", "<|think|>"),
)
LFM2 = (
    "<|startoftext|>",
    *CHATML,
    *(f"<|tool_{n}_{e}|>" for n in ("call", "list", "response") for e in ("start", "end")),
)
MISTRAL = (
    *("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CONTENT]"),
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
)


@dataclass(frozen=True)
class Family:
    """A chat template: its file, the special and other added tokens of its tokenizers, and eos and bos."""

    file: str
    special: tuple[str, ...]
    added: tuple[str, ...] = ()
    eos: str = "<|im_end|>"
    bos: str | None = None

    def template(self) -> str:
        """The template's text, ours or trl's. Skips the test where trl is not installed."""
        ours = FIXTURES / self.file
        if ours.is_file():
            return ours.read_text()
        trl = pytest.importorskip("trl", reason="the templates of real models come from the package trl (extra: dev)")
        return (Path(trl.__file__).parent / "chat_templates" / self.file).read_text()


FAMILIES = {
    "qwen2.5": Family("qwen2_5.jinja", CHATML, HERMES),
    "qwen3": Family("qwen3.jinja", CHATML, QWEN),
    "qwen3-2507": Family("qwen3_instruct_2507.jinja", CHATML, QWEN),
    "qwen3.5": Family("qwen3_5_think.jinja", CHATML, QWEN),
    "qwen3.5-nothink": Family("qwen3_5_nothink.jinja", CHATML, QWEN),
    "llama3.1": Family("llama3_1.jinja", LLAMA, (), "<|eot_id|>", "<|begin_of_text|>"),
    "llama3.2": Family("llama3_2.jinja", LLAMA, (), "<|eot_id|>", "<|begin_of_text|>"),
    "gemma4": Family("gemma4_v5.jinja", GEMMA4, (), "<eos>", "<bos>"),
    "lfm2": Family("lfm2_v2.jinja", LFM2, (), "<|im_end|>", "<|startoftext|>"),
    "lfm2.5": Family("lfm2_2_5_v2.jinja", LFM2, QWEN[:2], "<|im_end|>", "<|startoftext|>"),
    "mistral": Family("mistral_v7.jinja", MISTRAL, (), "</s>", "<s>"),
}
REFUSED = {
    "llama3": (Family("llama3.jinja", LLAMA, (), "<|eot_id|>", "<|begin_of_text|>"), "drops the list of tools"),
    "gemma": (Family("gemma.jinja", GEMMA, (), "<eos>", "<bos>"), "drops the list of tools"),
    "gemma3": (Family("gemma3.jinja", GEMMA, (), "<eos>", "<bos>"), "drops the list of tools"),
    "lfm2 without calls": (Family("lfm2.jinja", LFM2, (), "<|im_end|>", "<|startoftext|>"), "drops tool calls"),
    "phi3": (Family("phi3.jinja", ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>"), (), "<|end|>"), "drops"),
    "gpt-oss": (
        Family("gptoss.jinja", ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>", "<|return|>"), (),
               "<|return|>"),
        "cannot be parsed",
    ),
}  # fmt: skip


def byte_tokenizer(template: str | None, special: tuple[str, ...], added: tuple[str, ...] = (), **roles: Any) -> Any:
    """A fast tokenizer with one token a byte, and added tokens after them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: k for k, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    backend.add_tokens([AddedToken(t, special=False, normalized=False) for t in added])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **{k: v for k, v in roles.items() if v})
    tokenizer.chat_template = template
    return tokenizer


def tokenizer_of(family: Family) -> Any:
    return byte_tokenizer(family.template(), family.special, family.added, eos_token=family.eos, bos_token=family.bos)
