"""Pre-training's parts: the planted circuit copies untrained, drills can be solved, worlds keep state."""

import random
import re

import numpy as np
import pytest
import torch

from training.models.chat import SPECIAL_TOKENS, CompactFormat
from training.models.roles import transcript
from training.tiny.passes.learning import SmallBody
from training.tiny.pretraining.choosing import Choosing, amounts_row
from training.tiny.pretraining.copying import copying_batch
from training.tiny.pretraining.rows import draw_row
from training.tiny.pretraining.run import answer_loss, new_model
from training.tiny.pretraining.talk import Talk
from training.tiny.pretraining.tokenizer import train_tokenizer
from training.tiny.pretraining.worlds import World


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer((transcript(Talk(random.Random(s)).run().messages) for s in range(200)), 1500)


def test_the_planted_circuit_copies_at_any_distance(tokenizer):
    model = new_model(tokenizer, seed=3)
    rng = np.random.default_rng(0)
    for length in (64, 384):
        ids, known = copying_batch(rng, 8, length, np.arange(len(SPECIAL_TOKENS), 1500))
        batch = (torch.from_numpy(part) for part in (ids, known, known))
        with torch.no_grad():
            _, accuracy = answer_loss(SmallBody(model, torch.float32), model.lm_head, *batch)
        assert accuracy > 0.3  # an ordinary initialisation scores 0.00


def test_known_positions_follow_from_earlier_text():
    ids, known = copying_batch(np.random.default_rng(1), 6, 96, np.arange(10, 5000))
    for row, column in zip(*np.nonzero(known), strict=True):
        before = ids[row, : column - 1]
        pairs = {(a, b) for a, b in zip(before, ids[row, 1:column], strict=True)}
        assert (ids[row, column - 1], ids[row, column]) in pairs


def test_a_wish_says_which_of_the_listed_things_is_meant():
    choosing = Choosing(np.random.default_rng(2), np.arange(100, 5000), np.arange(10))
    choosing.hardness = 0.0  # a thing is one word: [wish] [word, mark, id, mark] ... [cue, mark] id, or the wish last
    ids, known, deciding = choosing.batch(40, 128)
    checked = 0
    for row, column in zip(*np.nonzero(deciding), strict=True):
        before, answer = ids[row, :column].tolist(), ids[row, column : column + 3].tolist()
        if not known[row, column + 1 : column + 3].all() or len(answer) < 3:
            continue
        at = next(k for k in range(column - 1, 0, -1) if before[k : k + 3] == answer)
        assert before[at - 2] in before[: at - 2] + before[at + 3 :]
        checked += 1
    assert checked > 100


def test_hard_lists_have_things_of_like_words_and_ids_that_start_differently():
    choosing = Choosing(np.random.default_rng(2), np.arange(100, 5000), np.arange(10))
    alike = 0
    for _ in range(300):
        things, identities = choosing._things()
        assert len({tuple(t) for t in things}) == len(things)
        assert len({i[0] for i in identities}) == len(things)
        alike += bool(set.intersection(*({*t.tolist()} for t in things)))
    assert alike > 100


def test_amounts_come_back_in_the_other_unit(tokenizer):
    chat, rng = CompactFormat(tokenizer), random.Random(4)
    for _ in range(60):
        ids, known = amounts_row(rng, chat.encode, 160)
        said = _numbers(chat.decode(ids[: known.index(True)]))
        learned = _numbers("".join(chat.decode([i]) if k else "|" for i, k in zip(ids, known, strict=True)))[0]
        in_cents = {str(round(float(n) * 100)) for n in said}
        in_dollars = {round(float(n)) for n in said}
        assert learned in in_cents or round(float(learned) * 100) in in_dollars


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d\d)?", text)


def test_a_write_is_read_back_sooner_or_later():
    checked = 0
    for seed in range(300):
        world = World(random.Random(seed))
        for tool in world.tools:
            if tool.sort != "act" or tool.bare_id:
                continue
            kind = tool.kind
            identity, record = next(iter(kind.records.items()))
            record["status"] = next(iter(tool.needs))
            get = next(t for t in world.tools if t.kind is kind and t.sort == "get")
            if world.call(tool.name, {kind.id_key: identity}).outcome != "ok":
                continue
            seen = [world.call(get.name, {kind.id_key: identity}) for _ in range(40)]
            told = [a.content for a in seen if a.outcome == "ok"]
            assert tool.gives in told[-1]
            checked += 1
    assert checked > 100


def test_equal_seeds_write_equal_conversations():
    first, second = (Talk(random.Random(7)).run() for _ in range(2))
    assert first == second
    assert 0.3 < np.mean([Talk(random.Random(s)).run().success for s in range(200)]) < 0.8


def test_rows_learn_answers_only(tokenizer):
    chat, rng, roles = CompactFormat(tokenizer), random.Random(5), set()
    for _ in range(120):
        role, (ids, trained) = draw_row(rng, chat)
        roles.add(role)
        assert len(ids) == len(trained) and trained[-1] and ids[-1] in chat.stop_ids
        learned = chat.decode([i for i, t in zip(ids, trained, strict=True) if t])
        if role == "world":
            assert learned[0].isdigit() and learned[1] in "=@"
        if role in ("judge", "pair"):
            assert learned in ("0", "1", "A", "B")
    assert roles == {"policy", "world", "user", "judge", "pair"}
