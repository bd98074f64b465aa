"""The customers: scripted, seeded, three temperaments. They know their wish and the agent's messages, not the database.

A reply of None ends the conversation: the customer has got an answer, right or wrong, or is fed up.
"""

from __future__ import annotations

import random
from typing import Any

from .language import words as w
from .language.hearing import Heard, hear
from .tasks import Task

PATIENCE = {"calm": (2, 2, 3), "brief": (1, 2, 2), "impatient": (0, 1)}
MAX_REPLIES = 6
NEEDS = {
    "reading": ("kwh",),
    "instalment": ("date",),
    "switch": ("date",),
    "defer": ("date",),
    "invoice": ("eur", "date"),
    "usage": ("kwh", "date"),
    "advice": ("tariff", "ct"),
}
"""The types of the facts that the customer waits for, by kind of wish."""

OFFERED = {"instalment": "eur", "defer": "days"}
"""The type of the value that the agent can offer instead of the wanted one."""


def opening(task: Task) -> str:
    """The customer's first message; it depends on the task alone."""
    rng = random.Random(f"opening {task.task_id}")
    values = dict(task.words)
    if "wish" in values:
        values["wish"] = w.WISH[values["wish"]].format(**values)
    text = rng.choice(w.BEFORE[task.temperament]) + rng.choice(w.OPENING[task.kind]).format(**values)
    if task.kind == "advice":
        return text + (rng.choice(w.WITH_POSTCODE).format(**values) if task.says_iban else "")
    if task.knows_number and task.says_number:
        text += rng.choice(w.WITH_CONTRACT).format(**values)
    if task.says_iban and task.kind not in ("reading", "usage"):
        text += rng.choice(w.WITH_IBAN).format(**values)
    return text


class Customer:
    """One customer in one episode."""

    def __init__(self, task: Task, seed: str) -> None:
        self._task = task
        self._rng = random.Random(f"customer {task.task_id} {seed}")
        self._patience = self._rng.choice(PATIENCE[task.temperament])
        self._said: set[str] = set()
        self._replies = 0
        self._leaving = False
        self.left = ""
        """Why the customer left: answered, fed up or too long; empty during the conversation."""

    def reply(self, text: str) -> str | None:
        """The customer's reply; None if the customer leaves or has left."""
        if self._leaving or self._replies >= MAX_REPLIES:
            self.left = self.left or "too long"
            return None
        self._replies += 1
        heard = hear(text)
        return self._answer(heard) or self._judge(heard)

    def _say(self, templates: tuple[str, ...], **more: Any) -> str:
        return self._rng.choice(templates).format(**(self._task.words | more))

    # ----- answers to the agent's questions

    def _answer(self, heard: Heard) -> str | None:
        """The answer to a question about something the customer knows, or to an offer."""
        if not heard.question:
            return None
        task, asks = self._task, heard.asks
        identifies = bool(asks & {"contract", "iban", "name"})
        if task.kind == "reading" and "check" in asks and not identifies and not heard.claim:
            if task.case.startswith("typo"):
                return self._say(w.GIVE["typo"], kwh=task.words["right"])
            return self._say(w.GIVE["sure"])
        if values := self._values(asks):
            topics = str(sorted(asks))
            repeated = topics in self._said
            self._said.add(topics)
            return self._or_leave(" ".join(values), cost=int(repeated))
        if task.kind in OFFERED and heard.numbers and not heard.claim:
            return self._say(w.GIVE["decline" if task.case == "limit declined" else "accept"])
        return None

    def _values(self, asks: frozenset[str]) -> list[str]:
        """The values that the agent asks for, as far as the customer knows them."""
        task, parts = self._task, []
        if asks & {"contract", "name"} and task.kind != "advice":
            parts.append(self._say(w.GIVE["contract" if task.knows_number else "no contract"]))
        if "iban" in asks:
            parts.append(self._say(w.GIVE["iban"]))
        if "postcode" in asks and not parts:
            parts.append(self._say(w.GIVE["postcode"]))
        if "place" in asks and "place" in task.words:
            parts.append(self._say(w.GIVE["place"]))
        if "month" in asks and "month" in task.words:
            parts.append(self._say(w.GIVE["month"]))
        return parts

    # ----- reactions to the agent's statements

    def _judge(self, heard: Heard) -> str | None:
        """The reaction to a statement: thanks, a question for what is missing, or impatience."""
        task, known = self._task, self._task.known_numbers
        if task.case == "limit declined" and heard.has(OFFERED[task.kind], known):
            return self._thank()
        needs = NEEDS[task.kind]
        missing = [need for need in needs if not heard.has(need, known)]
        refused = heard.refusal and not heard.claim
        answered = not missing and not (refused and task.kind == "reading")
        told_of_arrears = refused and task.kind == "switch" and bool(heard.units["eur"])
        if answered or told_of_arrears:
            return self._thank()
        if refused:
            return self._react_to_refusal()
        told_a_part = heard.claim or len(missing) < len(needs)
        if told_a_part and missing[0] not in self._said:
            self._said.add(missing[0])
            question = self._say(w.ASK["used" if task.kind == "reading" else missing[0]])
            return self._or_leave(question, cost=int(self._rng.random() < 0.5))
        return self._or_leave(self._say(w.DONE_YET), cost=1)

    def _react_to_refusal(self) -> str | None:
        if "why" not in self._said and self._rng.random() < 0.6:
            self._said.add("why")
            return self._or_leave(self._say(w.ASK["why"]), cost=1)
        return self._or_leave(self._say(w.AGAIN), cost=1)

    def _or_leave(self, text: str, cost: int) -> str | None:
        """The text, if the customer has patience left after this cost."""
        self._patience -= cost
        if self._patience >= 0:
            return text
        self._leaving, self.left = True, "fed up"
        return None if self._rng.random() < 0.5 else self._say(w.FED_UP)

    def _thank(self) -> str | None:
        self._leaving, self.left = True, "answered"
        return None if self._rng.random() < 0.6 else self._say(w.THANKS)
