"""Decoding under a JSON schema: what is sampled follows it, whatever the model would rather say."""

from __future__ import annotations

import asyncio
import json
import random

import jsonschema
import pytest

from ingest.errors import UserError
from training.engines import Sampling
from training.engines.grammar import Grammar, UnusableSchema
from training.engines.local import LocalEngine
from training.engines.vllm import refusal, sampling_request
from training.models.chat import CompactFormat
from training.models.roles import transcript
from training.tiny.pretraining.run import new_model
from training.tiny.pretraining.tokenizer import train_tokenizer
from training.tiny.pretraining.worlds.talk import Talk

SCHEMA = {
    "type": "object",
    "properties": {
        "crate": {"const": "K-7"},
        "state": {"enum": ["stored", "moved"]},
        "code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{4}$"},
        "kilos": {"type": "integer", "minimum": 1, "maximum": 9},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["crate", "state", "code", "kilos", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def chat() -> CompactFormat:
    return CompactFormat(train_tokenizer((transcript(Talk(random.Random(s)).run().messages) for s in range(60)), 700))


def test_a_random_model_writes_what_the_schema_allows(chat: CompactFormat) -> None:
    engine = LocalEngine(new_model(chat.tokenizer, seed=3), chat.pad_id)
    grammar = Grammar(json.dumps(SCHEMA), chat.tokenizer, chat.stop_ids[0])

    async def draw() -> tuple[list[str], str]:
        wanted = [Sampling(200, t, chat.stop_ids, seed, grammar=grammar) for seed in range(6) for t in (0.0, 1.0)]
        free = Sampling(40, 1.0, chat.stop_ids, 1)
        prompt = chat.prompt([{"role": "user", "content": "show K-7"}])
        samples = await asyncio.gather(*(engine.sample(prompt, adapter=None, sampling=s) for s in [*wanted, free]))
        alone = await engine.sample(prompt, adapter=None, sampling=wanted[3])
        assert alone.ids == samples[3].ids, "the batch decides nothing"
        await engine.close()
        assert all(s.stopped for s in samples[:-1])
        return [chat.decode(s.ids) for s in samples[:-1]], chat.decode(samples[-1].ids)

    texts, free = asyncio.run(draw())
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)
    assert len(set(texts)) > 3 and " " not in "".join(texts)
    with pytest.raises(ValueError):
        json.loads(free)


def test_the_schema_is_passed_to_vllm(chat: CompactFormat) -> None:
    grammar = Grammar(json.dumps(SCHEMA), chat.tokenizer, chat.stop_ids[0])
    wanted = sampling_request(Sampling(grammar=grammar))
    sent = json.loads(wanted["structured_outputs"]["json"])
    assert sent.pop("x-guidance")["whitespace_flexible"] is False and sent == SCHEMA
    assert "structured_outputs" not in sampling_request(Sampling())


def test_a_schema_that_cannot_be_followed_is_told_from_other_refusals(chat: CompactFormat) -> None:
    unknown = Grammar(json.dumps({"type": "no such type"}), chat.tokenizer, chat.stop_ids[0])
    with pytest.raises(UnusableSchema, match="no such type"):
        unknown.start()
    asked = sampling_request(Sampling(grammar=unknown))
    assert type(refusal("Grammar error: no such type", asked)) is UnusableSchema
    assert type(refusal("The provided JSON schema contains features not supported", asked)) is UnusableSchema
    assert type(refusal("max_tokens must be at least 1", asked)) is UserError
    assert type(refusal("Grammar error", sampling_request(Sampling()))) is UserError
