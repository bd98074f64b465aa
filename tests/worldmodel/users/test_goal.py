"""Goals are data: what was wanted, what was known, what was told when; and nothing is told too early."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.records import Conversation
from training.models.roles import user_messages
from worldmodel.steps import OK, Step
from worldmodel.users.goal import Goal, mine_goal
from worldmodel.users.knowledge import learn_knowledge

MESSAGES = (
    "Hello, my boiler makes a noise, contract #HX-4410.",
    "It stands at 9 Mill Lane, Dover.",
    "yes",
    "The serial is 77120034 and I am Ada Quill.",
)
STEPS = (
    Step("find_contract", {"contract": "HX-4410"}, '{"contract": "HX-4410", "holder": "Ada Quill"}', OK),
    Step("plan_visit", {"site": "9 Mill Lane, Dover", "serial_no": "77120034"}, '{"ok": true}', OK),
)
GOAL = mine_goal(MESSAGES, STEPS)


def told(goal: Goal) -> dict[str, tuple[int, frozenset[str]]]:
    return {fact.text: (fact.turn, fact.names) for fact in goal.facts}


def test_a_goal_has_facts_with_their_turn_and_their_names_in_the_calls() -> None:
    assert told(GOAL) == {
        "HX-4410": (0, frozenset({"contract"})),
        "9 Mill Lane, Dover": (1, frozenset({"site"})),
        "77120034": (3, frozenset({"serial_no"})),
        "Ada Quill": (3, frozenset({"holder"})),
    }
    assert told(mine_goal(MESSAGES)) == {"HX-4410": (0, frozenset()), "77120034": (3, frozenset())}
    how = GOAL.temperament
    assert (how.messages, how.facts, how.idle) == (4, 1.0, 1) and how.words == 25 / 4
    assert GOAL.answers("serial_no") and not GOAL.answers("ok")


def test_a_fact_is_ahead_unless_it_is_due_said_or_asked_for() -> None:
    said = [("user", MESSAGES[0]), ("agent", "What does it sound like?")]
    early = "a hum. serial 77120034, 9 mill lane, dover"
    assert [fact.text for fact in GOAL.ahead(said, early)] == ["77120034"], "the address is due in this message"
    asked = [*said[:1], ("agent", "Could you read me the serial number?")]
    assert not GOAL.ahead(asked, early)
    shown = [*said[:1], ("agent", "Is 77120034 the device?")]
    assert not GOAL.ahead(shown, early), "the agent has said it"
    assert not GOAL.ahead(said, "a hum, 771200345"), "another number"
    late = [*said, ("user", "a hum"), *said[1:], ("user", "yes"), *said[1:]]
    assert not GOAL.ahead(late, early)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=30), max_size=6), st.text(max_size=40))
def test_a_recorded_message_is_never_ahead_of_itself(messages: list[str], answer: str) -> None:
    goal = mine_goal(messages)
    said: list[tuple[str, str]] = []
    for text in messages:
        assert not goal.ahead(said, text)
        assert goal.recorded(said) is not None, "there is always a recorded message left"
        said += [("user", text), ("agent", answer)]


def test_the_notes_stand_in_the_prompts_of_real_bases_only() -> None:
    said = [("user", MESSAGES[0]), ("agent", "Where?")]
    compact = user_messages(GOAL.messages, said, True, GOAL.notes())
    assert compact == user_messages(GOAL.messages, said, True), "the tiny base's prompt is as it was"
    system = user_messages(GOAL.messages, said, False, GOAL.notes())[0]["content"]
    assert "77120034 (4)" in system and "4 messages of about 6 words" in system


# ----- what users know


def conversation(number: int, asks: bool, rng: random.Random) -> Conversation:
    """A member borrows a book. Some agents ask for the year of birth."""
    member, year = f"M-{number}", str(rng.randrange(1940, 2006))
    arguments = {"memberId": member, "birthYear": year} if asks else {"memberId": member}
    messages: list[Any] = [{"role": "user", "content": f"I am {member}. lend me a book"}]
    if asks:
        messages += [
            {"role": "assistant", "content": "Please tell me your year of birth."},
            {"role": "user", "content": f"{year}"},
        ]
    messages += [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "name": "lend", "arguments": arguments}]},
        {"role": "tool", "tool_call_id": "1", "content": json.dumps({"loan": f"L-{number}5"})},
        {"role": "assistant", "content": f"Done, your loan is L-{number}5."},
        {"role": "user", "content": f"L-{number}5, thanks"},
    ]
    return Conversation(f"c{number}", "agent", messages, [])


def test_users_know_what_real_users_told_first_and_were_asked_for() -> None:
    rng = random.Random(0)
    known = learn_knowledge([conversation(n, n % 2 == 0, rng) for n in range(100, 130)])
    assert known.told == {"birthYear": 15, "memberId": 30}, "a loan's number was shown before anybody said it"
    assert known.statements["birthYear"] == 1.0 and "birthYear" not in known.questions
    goal = mine_goal(["I am M-7. lend me a book"], [Step("lend", {"memberId": "M-7"}, "{}", OK)])
    for text, asked in (
        ("In which year was your birth?", ["birthYear"]),
        ("I need the birth year of the holder.", ["birthYear"]),
        ("Which member are you?", []),
        ("A happy new year!", []),
    ):
        assert known.asked(goal, [("user", goal.messages[0]), ("agent", text)]) == asked, text
    refused = replace(known, questions={"birthYear": 0.1})
    assert not refused.asked(goal, [("agent", "In which year was your birth?")]), "users did not answer such questions"
    recorded = mine_goal(["lend me a book", "1985"], [Step("lend", {"birthYear": "1985"}, "{}", OK)])
    assert not known.asked(recorded, [("agent", "what is your birth year?")]), "the recorded user tells it"
