"""rehearsal-tiny's tokenizer: byte-level BPE, single digits, JSON punctuation in runs.

`{"`, `":"`, `","` and `"}` are single tokens, and so are most common words, with and without a space before them. So
minified JSON needs few tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.models.chat import COMPACT, FORMAT, SPECIAL_TOKENS

SPLIT = "|".join(
    (
        r"\p{Lu}(?=\p{Lu}{0,3}(?!\p{L}))(?![ '])",
        r"[ _]?(?!\p{Lu}{2,4}(?!\p{L})|\p{Lu}(?![\p{L} ']))(?:\p{Lu}{5,}|\p{L}[\p{Ll}\p{Lo}\p{Lm}\p{M}]*)",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]+",
        r"\s",
    )
)
"""Digits, and the letters of runs of up to four capitals, are tokens of their own, without the space before them: an id
has the same tokens after a space and in quotes, so that it can be copied."""

CHAT_TEMPLATE = (
    "{%- for m in messages -%}"
    "<|{{ m.role }}|>"
    "{{ m.content or '' }}"
    "{%- if loop.first and m.role == 'system' and tools -%}"
    "{%- for t in tools -%}{%- set f = t.function if t.function is defined else t -%}{{ '\n' ~ f.name }}("
    "{%- for k in f.parameters.properties -%}{{ k }}{{ '' if k in (f.parameters.required or []) else '?' }}"
    "{{ '' if loop.last else ', ' }}{%- endfor -%})"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{%- for c in m.tool_calls or [] -%}{%- set f = c.function if c.function is defined else c -%}"
    "<|call|>{{ f.name }} {{ f.arguments if f.arguments is string else "
    "f.arguments | tojson(separators=(',', ':'), ensure_ascii=False) }}{%- endfor -%}"
    "<|end|>"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
"""Renders the same text as training.models.chat.CompactFormat, for programs that use chat templates; but it does not
repeat the records of lists that the user named."""


def train_tokenizer(texts: Iterable[str], vocabulary: int = 3072) -> PreTrainedTokenizerFast:
    """Train the tokenizer on `texts`; `vocabulary` counts bytes, merges and special tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = _splitter()
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|pad|>", clean_up_tokenization_spaces=False,
        **{FORMAT: COMPACT},
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.model_max_length = 4096
    return tokenizer


def split_anew(start: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a directory, with its vocabulary, but splitting texts as this module does."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(start)
    tokenizer.backend_tokenizer.pre_tokenizer = _splitter()
    return tokenizer


def _splitter() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
