"""Simulated customers: scripted, seeded, with five temperaments.

A customer knows the task's hidden goals and the agent's messages, never the database. Patient and chatty customers ask
again, terse ones write short messages, impatient ones leave after one or two unhelpful turns, forgetful ones name the
order only when asked. The reply None ends the episode: the customer is satisfied, fed up, or the agent said goodbye.
"""

from __future__ import annotations

import random

from .language import phrases as ph
from .language.speech import Heard, hear
from .tasks import Goal, Task

PATIENCE = {"patient": (2, 3), "terse": (1, 2), "impatient": (0, 1), "forgetful": (1, 3), "chatty": (2, 3)}
MAX_TURNS = 9


class Customer:
    """One customer in one episode. `opening` depends on the task alone; replies also depend on the episode's seed."""

    def __init__(self, task: Task, seed: str) -> None:
        self._task = task
        opening = random.Random(f"opening {task.task_id}")
        told = 1 if len(task.goals) == 1 or opening.random() < 0.4 else len(task.goals)
        names_it = task.knows_number and task.temperament != "forgetful"
        self.opening = ph.first_message(task, opening, told, names_it)
        self._rng = random.Random(f"customer {task.task_id} {seed}")
        self._patience = self._rng.choice(PATIENCE[task.temperament])
        self._open = list(task.goals[:told])
        self._unsaid = list(task.goals[told:])
        self._asked: set[str] = set()
        self._turns = 1
        self._leaving = False
        self.left = ""
        """Why the customer left: satisfied, fed up, goodbye or too long; empty during the conversation."""

    def reply(self, text: str) -> str | None:
        """The customer's reply to the agent's message; None if the customer leaves."""
        self._turns += 1
        if self._leaving:
            return None
        if self._turns > MAX_TURNS:
            self.left = "too long"
            return None
        heard = hear(text)
        content = [g for g in self._open if self._believes(g, heard)]
        self._open = [g for g in self._open if g not in content]
        if not self._open and self._unsaid:
            return self._next_goal()
        if not self._open:
            return self._thank()
        missing = self._missing(heard)
        if missing is not None:
            return missing
        if content:
            return self._fed_up_or(self._remind(self._open[0]), cost=int(self._rng.random() < 0.3))
        answer = self._answer(heard)
        if answer is not None:
            return answer
        return self._complain(heard)

    # ----- how the customer reads the agent's message

    def _believes(self, goal: Goal, heard: Heard) -> bool:
        """Whether the customer believes that this goal is reached, rightly or not."""
        if goal.kind == "track":
            return bool(heard.days and heard.cities)
        if goal.kind == "product":
            return bool(heard.amounts and heard.stocks)
        if goal.kind == "return":
            return bool(heard.codes) or (goal.asks_to_cancel and "cancel" in heard.claims)
        return goal.kind in heard.claims or heard.done

    def _missing(self, heard: Heard) -> str | None:
        """A question for the missing half of an answer, or None."""
        prices = heard.amounts - {g.cents for g in self._task.goals if g.kind == "refund"}
        for goal in self._open:
            if goal.kind == "return" and ("return" in heard.claims or heard.done):
                return self._ask_once("code", ph.ASK_CODE)
            if goal.kind == "product" and prices and not heard.stocks:
                return self._ask_once("stock", ph.ASK_STOCK)
            if goal.kind == "product" and heard.stocks:
                return self._ask_once("price", ph.ASK_PRICE)
            if goal.kind == "track" and (heard.days or heard.cities) and not heard.apology:
                return self._ask_once("place", ph.ASK_PLACE)
            if goal.asks_to_cancel and "cancel" in heard.denials and self._rng.random() < 0.45:
                return self._ask_once("send back", ph.SEND_BACK)
        return None

    def _ask_once(self, what: str, questions: tuple[str, ...]) -> str | None:
        if what in self._asked:
            return None
        self._asked.add(what)
        return self._fed_up_or(self._rng.choice(questions), cost=int(self._rng.random() < 0.4))

    def _answer(self, heard: Heard) -> str | None:
        """The facts that the agent asks for. Being asked twice for the same fact costs patience."""
        wanted = [w for w in ("order", "name", "amount", "address", "product") if w in heard.asks]
        goal = next((g for g in self._open for w in wanted if self._has(g, w)), None)
        if goal is None:
            return None
        parts = [self._tell(goal, w) for w in wanted if self._has(goal, w)]
        repeated = any(w in self._asked for w in wanted)
        self._asked |= set(wanted)
        return self._fed_up_or(" ".join(parts), cost=int(repeated))

    def _has(self, goal: Goal, wanted: str) -> bool:
        kinds = {"amount": "refund", "address": "address", "product": "product"}
        return goal.kind == kinds[wanted] if wanted in kinds else bool(goal.order_id)

    def _tell(self, goal: Goal, wanted: str) -> str:
        length = "short" if self._task.temperament in ("terse", "impatient") else "long"
        number = ph.GIVE_ORDER[length] if self._task.knows_number else ph.NO_ORDER
        answers = {
            "order": number,
            "name": ph.GIVE_NAME,
            "amount": ph.GIVE_AMOUNT,
            "address": ph.GIVE_ADDRESS,
            "product": ph.GIVE_PRODUCT,
        }
        return self._rng.choice(answers[wanted]).format(**ph.slots(self._task, goal, self._rng, True))

    def _complain(self, heard: Heard) -> str | None:
        goal = self._open[0]
        if heard.goodbye:
            self.left = "goodbye"
            return None
        if heard.apology and self._rng.random() < 0.6:
            again = self._rng.choice(ph.TRY_AGAIN)
        else:
            again = self._remind(goal)
        return self._fed_up_or(again, cost=1)

    # ----- what the customer writes

    def _remind(self, goal: Goal) -> str:
        named = self._task.knows_number and (self._task.temperament != "forgetful" or "order" in self._asked)
        kind = "cancel" if goal.asks_to_cancel and "send back" not in self._asked else goal.kind
        return self._rng.choice(ph.REMIND[kind]).format(**ph.slots(self._task, goal, self._rng, named))

    def _next_goal(self) -> str:
        goal = self._unsaid.pop(0)
        self._open.append(goal)
        same = goal.order_id == self._task.goals[0].order_id
        words = ph.slots(self._task, goal, self._rng, self._task.knows_number) | ({"o": "it"} if same else {})
        templates = ph.TERSE if self._task.temperament == "terse" else ph.OPENINGS
        return self._rng.choice(ph.NEXT) + self._rng.choice(templates[goal.kind]).format(**words)

    def _fed_up_or(self, text: str, cost: int) -> str | None:
        self._patience -= cost
        if self._patience >= 0:
            return text
        self._leaving, self.left = True, "fed up"
        if self._rng.random() < 0.5:
            return None
        return self._rng.choice(ph.FED_UP)

    def _thank(self) -> str | None:
        self._leaving, self.left = True, "satisfied"
        if self._rng.random() < 0.5:
            return None
        return self._rng.choice(ph.SHORT_THANKS if self._task.temperament == "terse" else ph.THANKS)
