"""What is invented fits what its user wants: records and lists like those of users who began alike."""

from __future__ import annotations

import json
import random
from dataclasses import replace

from world_samples import random_world

from worldmodel import WorldModel
from worldmodel.generate.shapes import learn_shapes
from worldmodel.steps import OK, Step


def world_of(found: dict[str, list[Step]], users: dict[str, str]) -> WorldModel:
    """A world whose records and lists are drawn, and not written by a model."""
    plain = random_world(found, 60, 700, body_tokens=160, name="wants")
    assert plain.rules is not None
    shapes = learn_shapes(plain.rules, found, users)
    return replace(plain, shapes=shapes, resolver=replace(plain.resolver, writes=False))


def test_a_record_is_like_those_of_users_who_wanted_the_same() -> None:
    """Who asks to sell a crate mostly means one that is stored, though no rule and no recorded answer says so."""
    rng = random.Random(3)
    asks = {"stored": "please sell crate K-{}", "sold": "where is the money for K-{}", "moved": "why did K-{} move?"}
    found, users = {}, {}
    for number in range(5000, 5120):
        one = {"crate": f"K-{number}", "state": rng.choice(sorted(asks)), "kilos": rng.randint(1, 9)}
        found[f"c{number}"] = [Step("show_crate", {"crate": one["crate"]}, json.dumps(one), OK)] * 2
        users[f"c{number}"] = asks[str(one["state"])].format(number)
    drawn = world_of(found, users)
    words = {word for one in next(iter(drawn.shapes.skeletons.values())) for word in one.words}
    assert words == {"please", "sell", "crate", "where", "the", "money", "for", "why", "did", "move"}
    for state, text in (*asks.items(), ("any", "hello, K-{}")):
        states = set()
        for seed in range(12):
            world = drawn.world(seed=seed, messages=[{"role": "user", "content": text.format(9321)}])
            states.add(json.loads(world.episode().call("show_crate", {"crate": "K-9321"}).content)["state"])
        assert states == {state} or state == "any" and len(states) > 1
    drawn.close()


def test_an_invented_list_holds_what_its_user_wants() -> None:
    """Who wants an oil change mostly finds one in the list of free slots; ids are new, and nothing else is made up."""
    rng = random.Random(3)
    kinds, days = ("oil", "tyres", "lights", "paint", "clutch"), ("MON", "TUE")
    found, users = {}, {}
    for k in range(120):
        wanted, day = rng.choice(kinds), rng.choice(days)
        listed = sorted({wanted, rng.choice(kinds)})
        slots = [f"{8 + at}:30 {kind} S-{rng.randrange(100, 999)}" for at, kind in enumerate(listed)]
        taken = rng.choice(slots).split()[-1]
        found[f"c{k}"] = [
            Step("free_slots", {"day": day}, json.dumps({"day": day, "free": slots}), OK),
            Step("book", {"slot": taken}, '{"ok":true}', OK),
        ]
        users[f"c{k}"] = f"please book {wanted} for me"
    drawn = world_of(found, users)
    kept = json.dumps([one.body for one in drawn.shapes.answers["free_slots"]])
    assert "oil" in kept and "S-" not in kept, "common values only"
    for wanted in kinds:
        lists = []
        for seed in range(12):
            world = drawn.world(seed=seed, messages=[{"role": "user", "content": f"please book {wanted} for me"}])
            seen = json.loads(world.episode().call("free_slots", {"day": "TUE"}).content)
            assert seen["day"] == "TUE" and all(len(slot.split()) == 3 for slot in seen["free"])
            lists.append({slot.split()[1] for slot in seen["free"]})
        assert sum(wanted in one for one in lists) >= 10
    drawn.close()
