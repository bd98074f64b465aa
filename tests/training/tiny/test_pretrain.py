"""Pre-training's parts: the planted circuit copies untrained, drills can be solved, a killed run resumes."""

import hashlib
import json
import random
import re

import numpy as np
import pytest
import torch

from training.models.chat import SPECIAL_TOKENS, CompactFormat
from training.models.roles import transcript
from training.tiny.passes.learning import SmallBody
from training.tiny.pretraining.choosing import Choosing
from training.tiny.pretraining.copying import copying_batch
from training.tiny.pretraining.measure import is_answer
from training.tiny.pretraining.rows import draw_row
from training.tiny.pretraining.run import PHASES, Run, answer_loss, new_model
from training.tiny.pretraining.tokenizer import split_anew, train_tokenizer
from training.tiny.pretraining.worlds.talk import Talk
from training.tiny.pretraining.worlds.units import UNITS, units_row


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


def test_a_wish_says_which_of_the_listed_things_is_meant(monkeypatch):
    choosing = Choosing(np.random.default_rng(2), np.arange(1000, 5000), np.arange(10))
    choosing.hardness = 0.0
    words, identities = [[100], [101], [102]], [[7, 1, 2], [7, 3, 4], [7, 5, 6]]
    monkeypatch.setattr(choosing, "_things", lambda: ([np.array(w) for w in words], [np.array(i) for i in identities]))
    orders = set()
    for _ in range(200):
        (whole, free), (answer, marks) = choosing._block()
        said, chosen = whole.tolist(), identities.index(answer.tolist())
        assert [said.count(*w) for w in words] == [2 if k == chosen else 1 for k in range(3)]
        assert not any(free) and marks == [1, 2, 1]  # all ids begin with 7
        orders.add(said.index(1) < said.index(3) and said[said.index(1) - 3] in (100, 101, 102))
    assert orders == {False, True}


def test_hard_lists_have_things_of_like_words_and_ids_that_differ_in_one_place():
    choosing = Choosing(np.random.default_rng(2), np.arange(100, 5000), np.arange(10))
    alike = common = 0
    for _ in range(300):
        things, identities = choosing._things()
        assert len({tuple(t) for t in things}) == len(things)
        deciding = next(column for column in zip(*identities, strict=True) if len(set(column)) > 1)
        assert len(set(deciding)) == len(things)
        common += identities[0][0] == identities[1][0]
        alike += bool(set.intersection(*({*t.tolist()} for t in things)))
    assert alike > 100 and 60 < common < 200


def test_an_id_has_the_same_tokens_after_a_space_and_in_quotes(tokenizer):
    for code in ("GM-7817", "47-KXA", "QF7K2X", "RSF 313", "ab12-99", "A/7-XX"):
        alone = tokenizer.encode(code)
        for text in (f'{{"plate":"{code}"}}', f"is it {code}, please", f"({code})"):
            tokens = tokenizer.encode(text)
            if code[0].isupper() or code[0].isdigit():
                assert any(tokens[k : k + len(alone)] == alone for k in range(len(tokens))), (code, text)


def test_a_start_keeps_its_vocabulary_and_splits_anew(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = split_anew(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.encode("GM-7817 said") == tokenizer.encode("GM-7817 said")


@pytest.mark.parametrize("loose", [False, True])
def test_units_come_back_as_the_other_unit(tokenizer, loose):
    chat, rng = CompactFormat(tokenizer), random.Random(4)
    for _ in range(60):
        ids, known = units_row(rng, chat.encode, 160, loose)
        said = {float(n) for n in _numbers(chat.decode(ids[: known.index(True)]))}
        shown = "".join(chat.decode([i]) if k else "|" for i, k in zip(ids, known, strict=True))
        learned = _numbers(shown)[0]
        if shown.rstrip(".").endswith(learned):
            continue  # the row ends in this number
        factors = {unit.factor for unit in UNITS}
        pairs = [(float(learned), n * f) for f in factors for n in said]
        pairs += [(float(learned) * f, n) for f in factors for n in said]
        assert any(abs(one - other) < 0.01 for one, other in pairs)


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", text)


@pytest.mark.parametrize("unit", UNITS)
def test_a_quantity_is_the_same_in_both_units(unit):
    rng = random.Random(6)
    for _ in range(100):
        quantity = unit.draw(rng)
        assert round(unit.value(quantity, small=False) * unit.factor) == unit.value(quantity, small=True) == quantity


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


@pytest.fixture
def small_run(tokenizer, tmp_path, monkeypatch):
    """Makes runs of few and small batches, so that one takes seconds."""
    for name, value in {"DRILL_TOKENS": 256, "WORLD_TOKENS": 1024, "POOL_ROWS": 12}.items():
        monkeypatch.setattr(f"training.tiny.pretraining.batches.{name}", value)
    monkeypatch.setattr("training.tiny.pretraining.run.LOG_EVERY", 3)

    def make(name: str, budget: tuple[int, ...] = (2, 7, 8, 3)) -> Run:
        tokenizer.save_pretrained(tmp_path / name)
        return Run(tmp_path / name, 1, budget)

    return make


def test_a_killed_run_ends_with_the_same_weights(small_run):
    whole = small_run("whole")
    whole.run()
    small_run("killed").run(stop_at=5, save_every=4)
    middle = small_run("killed")
    assert middle.step == 5
    middle._learn("choose", 1e-3)  # a step after the last save, which the kill loses
    middle._log("drill")
    resumed = small_run("killed")
    resumed.run(stop_at=12)
    last = small_run("killed")
    last.run()
    for (name, one), other in zip(whole.model.state_dict().items(), last.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert (whole.out / "history.jsonl").read_text() == (last.out / "history.jsonl").read_text()


def test_phases_that_have_begun_keep_their_budgets(small_run):
    small_run("one").run(stop_at=3)
    with pytest.raises(ValueError, match="begun phases cannot become"):
        small_run("one", (2, 8, 8, 3))
    assert small_run("one", (2, 7, 9, 3)).step == 3


def test_the_manifest_says_how_the_weights_were_made(small_run):
    run = small_run("made", (3, 7, 2, 3))
    run.run()
    run.write_manifest("python -m ...", "abc")
    told = json.loads((run.out / "manifest.json").read_text())
    weights = hashlib.sha256((run.out / "model.safetensors").read_bytes()).hexdigest()
    assert told["sha256"]["model.safetensors"] == weights
    assert told["steps"] == {"copy": 3, "drill": 7, "world": 2, "refine": 3}
    assert told["tokens"] > told["learned_tokens"] > 0


def test_an_answer_is_a_digit_and_an_edit_of_what_the_prompt_shows():
    prompt = 'world[1] read {"id":"1"}\nid: 1\nstate: open\n~[2] read {"id":"2"}\n{"id":"2","state":"shut"}\n< \n> read'
    for written in ('0={"id":"3"}', '0@2{"state":"open"}', "0@1", "1=Error: busy", "0=id: 4, state: open"):
        assert is_answer(written, prompt)
    for written in ('={"id":"3"}', '0={"id":', "0@3", '0@1{"state":"open"}', "0=", '0={"id":"3"}}'):
        assert not is_answer(written, prompt)


def test_rates_depend_on_the_share_of_steps_only():
    world = PHASES[2]
    assert world.rate(0.0) == world.rates[0] and world.rate(1.0) == pytest.approx(world.rates[1])
    assert world.rates[1] < world.rate(0.7) < world.rate(0.3) < world.rates[0]
