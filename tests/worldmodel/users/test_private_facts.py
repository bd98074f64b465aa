"""A user knows what the agent asks and the recording does not say: one value a world, the store's."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from world_samples import random_world

from ingest.records import Conversation, Scenario, Transition
from training.engines import TooLong
from worldmodel import Episode, WorldModel
from worldmodel.steps import OK, Step
from worldmodel.users.goal import Goal, mine_goal
from worldmodel.users.knowledge import Knowledge
from worldmodel.users.match import ask_users, match
from worldmodel.users.user import dialogue, fit_leaving

TOLD = Knowledge({"member": 60, "born": 30, "phrase": 30}, {}, {"born": 0.9, "phrase": 0.2})
"""What users of the library tell: their number, the year they were born in, and the phrase of their locker."""
WORDS = "amber basil cedar delta ember fjord grove haven inlet jetty knoll larch maple north ocean pearl".split()


def member(number: int, rng: random.Random) -> dict[str, Any]:
    name = "".join(rng.choice("bdfgklmnprst") + rng.choice("aeiou") for _ in range(4)).capitalize()
    return {"member": f"M-{number}", "name": name, "born": rng.randint(1940, 2005), "level": rng.choice(("a", "b"))}


def show(fields: dict[str, Any]) -> Step:
    return Step("show_member", {"member": fields["member"]}, json.dumps(fields), OK, 20.0)


def check(fields: dict[str, Any], year: int) -> Step:
    arguments = {"member": fields["member"], "born": year}
    if year == fields["born"]:
        return Step("check_member", arguments, '{"ok":true}', OK, 10.0)
    return Step("check_member", arguments, '{"error":"wrong_year","message":"that is not it"}', "wrong_year", 10.0)


def unlock(fields: dict[str, Any], phrase: str) -> Step:
    """Phrases of two words are right; nobody ever sees them."""
    arguments = {"member": fields["member"], "phrase": phrase}
    if "-" in phrase:
        return Step("open_locker", arguments, '{"open":true}', OK, 10.0)
    return Step("open_locker", arguments, '{"error":"refused","message":"no"}', "refused", 10.0)


def corpus() -> dict[str, list[Step]]:
    rng = random.Random(3)
    found = {}
    for number in range(2000, 2090):
        one = member(number, rng)
        steps = [show(one), check(one, one["born"] if number % 3 else one["born"] - rng.randint(1, 9))]
        words = rng.sample(WORDS, 2)
        steps.append(unlock(one, "-".join(words) if number % 2 else words[0]))
        found[f"c{number}"] = steps
    return found


@pytest.fixture(scope="module")
def model() -> Iterator[WorldModel]:
    made = random_world(corpus(), 60, 700, body_tokens=120, name="library", with_user=True)
    assert made.user is not None
    yield replace(made, user=replace(made.user, knowledge=TOLD))
    made.close()


def scenario(said: tuple[str, ...], *steps: Step) -> Scenario:
    rows = ((k, s.tool, dict(s.arguments), s.content) for k, s in enumerate(steps))
    facts = tuple(Transition("c", *row, False, "", 9.0, row[0]) for row in rows)
    return Scenario("s", "c", "", [], said[0], said, facts, 1.0, 0)


def say(model: WorldModel, episode: Episode, text: str) -> str:
    reply = model.run(episode.respond(text))
    assert reply is not None
    return reply


def shown_member(episode: Episode, number: str) -> str:
    while (seen := episode.call("show_member", {"member": number})).is_error:
        continue
    return seen.content


def test_a_user_tells_what_the_store_knows(model: WorldModel) -> None:
    one = {"member": "M-77", "name": "Rano", "born": 1961, "level": "a"}
    episode = model.world(scenario=scenario(("I am M-77, help me",), show(one)), seed=0).episode()
    assert "1961" in say(model, episode, "In which year were you born?")
    assert episode.call("check_member", {"member": "M-77", "born": 1961}).content == '{"ok":true}'
    other = model.world(scenario=scenario(("I am M-77, help me",), show(one)), seed=0).episode()
    assert "1961" in say(model, other, "Please tell me the year you were born in."), "mostly answered, so it asks"


def test_an_unseen_record_is_invented_once_for_the_user_and_for_the_tools(model: WorldModel) -> None:
    years = set()
    for seed in range(4):
        world = model.world(scenario=scenario(("I am M-8123, help me",)), seed=seed)
        first, second = world.episode(), world.episode()
        year = say(model, first, "In which year were you born?")
        assert str(json.loads(shown_member(second, "M-8123"))["born"]) == year
        assert say(model, second, "In which year were you born?") == year
        assert first.call("check_member", {"member": "M-8123", "born": int(year)}).content == '{"ok":true}'
        again = model.world(scenario=scenario(("I am M-8123, help me",)), seed=seed).episode()
        assert say(model, again, "In which year were you born?") == year
        years.add(year)
    assert len(years) > 1


def test_a_secret_that_no_record_shows_is_one_that_its_tool_accepts(model: WorldModel) -> None:
    for seed in range(4):
        world = model.world(scenario=scenario(("I am M-8123, help me",)), seed=seed)
        episode, other = world.episode(), world.episode()
        phrase = say(model, episode, "What is the phrase of your locker?")
        assert not episode.call("open_locker", {"member": "M-8123", "phrase": phrase}).is_error
        assert say(model, other, "What is the phrase of your locker?") == phrase


def test_a_user_who_has_named_nothing_has_a_record(model: WorldModel) -> None:
    """Asked for their number, of which the recording says nothing: the tools then know the same record."""
    numbers = set()
    for seed in range(4):
        world = model.world(scenario=scenario(("help me please",)), seed=seed)
        first, second = world.episode(), world.episode()
        number = say(model, first, "What is your member number?")
        assert say(model, second, "Tell me the number of the member?") == number and number.startswith("M-")
        shown = [json.loads(shown_member(episode, number)) for episode in (first, second)]
        assert shown[0] == shown[1] and shown[0]["member"] == number
        numbers.add(number)
    assert len(numbers) > 1


def test_nothing_is_told_that_was_not_asked_or_that_the_recording_says(model: WorldModel) -> None:
    one = {"member": "M-77", "name": "Rano", "born": 1961, "level": "a"}
    said = ("I am M-77, help me", "1961")
    told: list[dict[str, str]] = []

    class Listening(type(model.user)):  # type: ignore[misc]
        async def reply(self, goal: Goal, said: Any, seed: int, pins: Any, private: Any = None) -> str:
            told.append(dict(private))
            return "well"

    user = Listening(**model.user.__dict__)
    listening = replace(model, user=user)
    for goal, text, expected in (
        (said[:1], "Your level is b.", {}),
        (said[:1], "What is your level?", {}),  # users never told a level
        (said[:1], "I will keep the phrase.", {}),  # rarely answered, and no question
        (said[:1], "When were you born?", {"born": "1961"}),
        (("help me",), "When were you born?", {}),  # whose record?
        (said, "When were you born?", {}),  # the recorded user says it
    ):
        steps = (show(one), check(one, 1961)) if len(goal) > 1 else (show(one),)
        episode = listening.world(scenario=scenario(goal, *steps), seed=0).episode()
        model.run(episode.respond(text))
        assert told.pop() == expected, text


def test_a_field_without_text_is_no_fact(model: WorldModel) -> None:
    """A reply that has to tell it would be empty."""
    one = {"member": "M-77", "name": "Rano", "born": " ", "level": "a"}
    told: list[dict[str, str]] = []

    class Listening(type(model.user)):  # type: ignore[misc]
        async def reply(self, goal: Goal, said: Any, seed: int, pins: Any, private: Any = None) -> str:
            told.append(dict(private))
            return "well"

    assert model.user is not None
    listening = replace(model, user=Listening(**model.user.__dict__))
    episode = listening.world(scenario=scenario(("I am M-77, help me",), show(one)), seed=0).episode()
    model.run(episode.respond("When were you born?"))
    assert told == [{}]


# ----- too early, and leaving


class Says:
    """An engine that always writes one text, and leaves with one of these log-probabilities."""

    def __init__(self, model: WorldModel, text: str, leaves: tuple[float, ...]) -> None:
        self.ids, self.leaves = model.resolver.chat.encode(text), leaves

    async def sample(self, prompt: Any, *, adapter: Any, sampling: Any) -> Any:
        return type("Sample", (), {"ids": self.ids, "stopped": True})

    async def next_token_logprobs(self, prompt: Any, ids: Any, *, adapter: Any) -> tuple[float, ...]:
        return (self.leaves[sum(prompt) % len(self.leaves)],)


def test_a_reply_that_tells_a_fact_too_early_is_replaced(model: WorldModel) -> None:
    goal = mine_goal(["lend me a book", "the red one", "my card is 99120034"])

    class Pins:
        async def settle(self, question: str, make: Any) -> Any:
            return await make()

    assert model.user is not None
    engine = Says(model, "red, and my card is 99120034", (-12.0,))  # everything at once
    user = replace(model.user, engine=engine, tally=type(model.user.tally)())
    said = [("user", "lend me a book"), ("agent", "Which one?")]
    assert asyncio.run(user.reply(goal, said, 0, Pins())) == "the red one"
    assert user.tally == {"replies": 1, "ahead": 3, "recorded": 1}
    silent = replace(user, engine=Says(model, "well, who knows", (-12.0,)), tally=type(user.tally)())
    later = [*said, ("user", "the red one"), ("agent", "Which number is on your card?")]
    assert asyncio.run(silent.reply(goal, later, 0, Pins())) == "my card is 99120034", "asked for, and due"
    assert silent.tally == {"replies": 1, "withheld": 3, "recorded": 1}
    asked = [("user", "lend me a book"), ("agent", "Which number is on your card?")]
    assert "99120034" in (asyncio.run(user.reply(goal, asked, 0, Pins())) or "")


def test_users_leave_as_often_as_real_ones_after_the_fit(model: WorldModel) -> None:
    """The bias is fitted on some conversations and measured on others."""
    assert model.user is not None

    def talks(first: int) -> list[Any]:
        return [talk(number) for number in range(first, first + 60)]

    user = replace(model.user, engine=Says(model, "well", (-2.0, -4.0, -6.0)))
    shares = {}
    for name, bias in (("before", 0.0), ("after", model.run(fit_leaving(user, talks(0))))):
        fitted = replace(user, leave_bias=bias)
        said = {c.conversation_id: dialogue(c.messages) for c in talks(500)}
        found = match(model.run(ask_users(fitted, said, most=10_000)))
        assert found["left"]["real"] == 1 / 3 and found["turns"]["real"] == 3.0
        shares[name] = found["left"]["simulated"]
    assert abs(shares["after"] - 1 / 3) < 0.1 < abs(shares["before"] - 1 / 3)


def test_turns_beyond_the_context_of_the_base_are_left_out_of_the_fit(model: WorldModel) -> None:
    assert model.user is not None

    class Short(Says):
        every = 1

        async def next_token_logprobs(self, prompt: Any, ids: Any, *, adapter: Any) -> tuple[float, ...]:
            if sum(prompt) % self.every == 0:
                raise TooLong("too long")
            return await super().next_token_logprobs(prompt, ids, adapter=adapter)

    found = {}
    for every in (10**9, 5, 1):
        engine = Short(model, "well", (-4.0,))
        engine.every = every
        found[every] = model.run(fit_leaving(replace(model.user, engine=engine), [talk(k) for k in range(60)]))
    assert found[1] == 0.0 and abs(found[5] - found[10**9]) < 1.0 < found[5]


def talk(number: int) -> Conversation:
    texts = ("user", "lend a book"), ("assistant", "which?"), ("user", f"book B-{number}5"), ("assistant", "how long?")
    rest = ("user", "two weeks"), ("assistant", f"done {number}")
    messages: list[Any] = [{"role": role, "content": text} for role, text in (*texts, *rest)]
    return Conversation(f"t{number}", "agent", messages, [])
