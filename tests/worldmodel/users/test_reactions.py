"""Set phrases of users: said where real users said them, and to nothing else."""

from __future__ import annotations

import json
import random

from worldmodel.users.goal import mine_goal
from worldmodel.users.reactions import Reactions, Turn, learn_reactions

AGAIN, THANKS, DONE, FAILED = "Please try  again.", "thank you!", "O-{} is now cancelled.", "Sorry, that failed."


def turns(count: int = 300) -> list[Turn]:
    """Failures are answered by a demand or by own words, successes by thanks or by leaving."""
    rng = random.Random(2)
    found: list[Turn] = []
    for k in range(count):
        number, own = rng.randrange(1000, 9999), f"it is O-{rng.randrange(1000, 9999)}"
        if k % 3 == 0:
            found.append((FAILED, AGAIN if rng.random() < 0.7 else own, f"c{k}"))
        elif k % 3 == 1:
            found.append((DONE.format(number), THANKS if rng.random() < 0.5 else None, f"c{k}"))
        else:
            found.append(("Which order, dear Ms Okonjo?" if k == 2 else "Which order?", own, f"c{k}"))
    found.append(("What was it?", "the heron lamp, i am sure", "c1"))
    return found


def said(agent: str) -> list[tuple[str, str]]:
    return [("user", "hello"), ("agent", agent)]


def test_a_phrase_fits_what_it_was_said_to() -> None:
    known = learn_reactions(turns())
    assert known.fits(said(FAILED), AGAIN) and known.fits(said(FAILED), "PLEASE try again.")
    assert not known.fits(said(DONE.format(77)), AGAIN) and not known.fits(said("Which order?"), AGAIN)
    assert known.fits(said(DONE.format(77)), THANKS) and not known.fits(said(FAILED), THANKS)


def test_own_words_and_replies_to_what_no_agent_said_always_fit() -> None:
    known = learn_reactions(turns())
    for agent in (FAILED, DONE.format(3), "Completely different words stand here"):
        assert known.fits(said(agent), "it is O-4444") and known.fits(said(agent), "the heron lamp, i am sure")
    assert known.fits(said("Completely different words stand here"), AGAIN)
    assert known.fits([], AGAIN) and known.fits([("user", "hello")], AGAIN)
    assert Reactions({}, ()).fits(said(FAILED), AGAIN)


def test_what_is_too_rare_to_be_missed_fits() -> None:
    """Three conversations of three hundred said it: that it followed none of a hundred messages says nothing."""
    rare = [(FAILED, "and the other one?", f"r{k}") for k in range(3)]
    assert learn_reactions([*turns(), *rare]).fits(said(DONE.format(5)), "and the other one?")


def test_nothing_that_fewer_than_three_conversations_say_is_kept() -> None:
    known = learn_reactions(turns())
    text = json.dumps(known.to_json())
    assert "okonjo" not in text and "heron" not in text and "O-" not in text
    again = Reactions.from_json(json.loads(text))
    assert again.phrases == known.phrases and not again.fits(said(DONE.format(77)), AGAIN)


def test_a_recorded_reaction_is_passed_over_and_the_next_wish_comes_instead() -> None:
    known = learn_reactions(turns())
    goal = mine_goal(["cancel O-1234", AGAIN, "and refund O-4321 please"])
    met = [("user", "cancel O-1234"), ("agent", DONE.format(1234))]
    assert goal.recorded(met, lambda text: known.fits(met, text)) == "and refund O-4321 please"
    failed = [("user", "cancel O-1234"), ("agent", FAILED)]
    assert goal.recorded(failed, lambda text: known.fits(failed, text)) == AGAIN
    over = [*met, ("user", "and refund O-4321 please"), ("agent", DONE.format(4321))]
    assert goal.recorded(over, lambda text: known.fits(over, text)) is None
