"""rehearsal-tiny's tokenizer: byte-level BPE, single digits, JSON punctuation in runs.

`{"`, `":"`, `","` and `"}` are single tokens, and so are most common words, with and without a space before them. So
minified JSON needs few tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.models.chat import COMPACT, FORMAT, SPECIAL_TOKENS

SPLIT = r"[ _]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s"

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
"""Renders the same text as training.models.chat.CompactFormat, for programs that use chat templates."""


def train_tokenizer(texts: Iterable[str], vocabulary: int = 3072) -> PreTrainedTokenizerFast:
    """Train the tokenizer on `texts`; `vocabulary` counts bytes, merges and special tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
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
