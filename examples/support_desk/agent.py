"""The production agent: a script that reacts to observations and often makes mistakes.

It knows only the conversation. At each decision it makes the right choice with the probability in PRODUCTION,
independently of other decisions, so the traces contain right and wrong choices after equal prefixes. With `skill=1.0`
it makes no mistakes. It works in any Episode, real or learned.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from typing import Any

from training.environment import Episode, Observation, Start, ToolCall

from ..shared import body_of
from .language import sayings as sy
from .language.reading import Slots, intents, is_complaint, is_goodbye, read_slots

PRODUCTION = {
    "order id has the right form": 0.6,
    "repair what the error names": 0.53,
    "retry after a timeout": 0.5,
    "wait after 429": 0.55,
    "wait long enough": 0.8,
    "ask for the order number": 0.78,
    "search the right case": 0.6,
    "retry in the right case": 0.65,
    "turn the page": 0.78,
    "pick the right one": 0.92,
    "cents": 0.55,
    "return instead of cancel": 0.68,
    "fetch the return code": 0.72,
    "read again after a write": 0.6,
    "ask the carrier": 0.72,
    "state the facts": 0.9,
    "state all facts": 0.8,
    "do both": 0.75,
    "try again when asked": 0.5,
    "admit failure": 0.72,
}
"""Probability of the right choice, by decision."""

HABITS = {"look first": 0.5, "check after": 0.4, "read the policy": 0.06, "hand over": 0.15}
"""Probabilities that skill does not change. These habits are neither right nor wrong, except "hand over"."""

MAX_TURNS, MAX_CALLS = 10, 24


async def run_scripted(
    episode: Episode, start: Start, rng: random.Random, skill: float | None = None
) -> list[dict[str, Any]]:
    """Run the agent to the end of the episode. Returns the messages: the system prompt first, tool results with error
    class and latency.

    `skill` is the probability of the right choice at every decision; None: the values in PRODUCTION.
    """
    agent = ScriptedAgent(episode, start, rng, skill)
    await agent.run()
    return agent.messages


class GaveUp(Exception):
    """A goal was not reached; the message is the reason that the agent gives."""


@dataclass
class ScriptedAgent:
    """One run: the conversation so far, the known slots, and the open goals."""

    episode: Episode
    start: Start
    rng: random.Random
    skill: float | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    slots: Slots = field(default_factory=Slots)
    pending: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _calls: int = 0
    _thought: str | None = None
    """The agent's note beside its next call (scratchpad)."""

    async def run(self) -> None:
        self.messages.append({"role": "system", "content": self.start.system})
        heard: str | None = self.start.first_user_message
        for _ in range(MAX_TURNS):
            if heard is None:
                return
            self.messages.append({"role": "user", "content": heard})
            reply = await self._turn(heard)
            self.messages.append({"role": "assistant", "content": reply})
            heard = await self.episode.respond(reply)
        if heard is not None:
            self.messages.append({"role": "user", "content": heard})

    # ----- decisions

    def good(self, situation: str) -> bool:
        return self.rng.random() < (PRODUCTION[situation] if self.skill is None else self.skill)

    def habit(self, name: str) -> bool:
        return self.rng.random() < HABITS[name]

    def words(self, templates: tuple[str, ...], **values: Any) -> str:
        return self.rng.choice(templates).format(**values)

    # ----- one turn

    async def _turn(self, heard: str) -> str:
        wanted = intents(heard)
        read_slots(heard, self.slots)
        if is_goodbye(heard) and not wanted:
            return self.words(sy.GOODBYE)
        if is_complaint(heard) and not wanted:
            wanted = self.failed[:1]
            if not wanted or not self.good("try again when asked"):
                return self.words(sy.NOTHING_MORE)
        self.pending += [w for w in wanted if w not in self.pending]
        if not self.pending:
            return self.words(sy.WHAT)
        replies = []
        while self.pending:
            question = await self._missing(self.pending[0])
            if question:
                replies.append(question)
                break
            replies.append(await self._work(self.pending.pop(0)))
            if self.pending and not self.good("do both"):
                self.pending.clear()
        return " ".join(replies)

    async def _missing(self, goal: str) -> str | None:
        """A question for a value that a goal needs and the customer has not given."""
        slots = self.slots
        if goal == "product":
            return None if slots.line and slots.colour else self.words(sy.ASK_PRODUCT)
        if slots.order is None and slots.name is None:
            if self.good("ask for the order number"):
                return self.words(sy.ASK_ORDER)
            return self.words(sy.NO_NUMBER)
        if goal == "refund" and slots.cents is None:
            return self.words(sy.ASK_AMOUNT)
        if goal == "address" and slots.address is None:
            return self.words(sy.ASK_ADDRESS)
        return None

    async def _work(self, goal: str) -> str:
        """Work on one goal; return the statement for the customer, true or false."""
        flow = {
            "cancel": self._cancel,
            "return": self._return,
            "refund": self._refund,
            "address": self._address,
            "track": self._track,
            "product": self._product,
        }[goal]
        self.failed = [g for g in self.failed if g != goal]
        try:
            if goal != "product" and self.slots.order is None:
                await self._find_order()
            return await flow()
        except GaveUp as reason:
            self.failed.append(goal)
            if self._calls < MAX_CALLS and self.habit("hand over"):
                await self._call("hand_over", reason=str(reason))
                return self.words(sy.HANDED_OVER, reason=reason)
            if self.good("admit failure"):
                return self.words(sy.SORRY, reason=reason)
            return self._false_claim(goal)

    def _false_claim(self, goal: str) -> str:
        slots, rng = self.slots, self.rng
        values = {
            "o": f"O-{slots.order}" if slots.order else "your order",
            "a": sy.money(slots.cents or 0),
            "d": slots.address,
            "city": rng.choice(sy.CITIES),
            "day": rng.choice(sy.DAYS),
            "code": f"R-{rng.randint(1000, 9999)}",
            "p": f"{slots.line} {slots.colour}",
            "price": sy.money(rng.randint(10, 80) * 100 + 50),
            "stock": rng.randint(1, 40),
        }
        return self.words(sy.TELL[goal], **values)

    # ----- calls

    async def _call(self, tool: str, **arguments: Any) -> Observation:
        self._calls += 1
        if self._calls > MAX_CALLS:
            raise GaveUp("this takes too long")
        call = ToolCall(tool, arguments, f"call_{self._calls}")
        self.messages.append(
            {
                "role": "assistant",
                "content": self._thought,
                "tool_calls": [{"id": call.call_id, "name": tool, "arguments": arguments}],
            }
        )
        self._thought = None
        seen = await self.episode.observe(call)
        result = {"role": "tool", "content": seen.content, "tool_call_id": call.call_id, "name": tool}
        self.messages.append(
            {
                **result,
                "is_error": seen.is_error,
                "error_class": seen.error_class,
                "latency_ms": seen.latency_ms,
            }
        )
        return seen

    async def _persist(self, tool: str, **arguments: Any) -> Observation:
        """Call a tool; retry timeouts and wait for rate limits, each with its probability."""
        while True:
            seen = await self._call(tool, **arguments)
            if seen.error_class == "timeout":
                if not self.good("retry after a timeout"):
                    raise GaveUp("the system does not answer")
            elif seen.error_class == "rate_limited":
                if self.good("wait after 429"):
                    await self._call("wait", seconds=5 if self.good("wait long enough") else 2)
                elif self.rng.random() < 0.5:
                    raise GaveUp("there are too many searches")
            else:
                return seen

    async def _on_order(self, tool: str, **arguments: Any) -> Observation:
        """Call a tool about the order. The agent knows the tool's form of order numbers or reads it in the error."""
        bare = tool in ("track_parcel", "open_return")
        key = "number" if bare else "order_id"
        right = self.good("order id has the right form")
        for _ in range(2):
            shown = str(self.slots.order) if bare == right else f"O-{self.slots.order}"
            seen = await self._persist(tool, **{key: shown}, **arguments)
            if not re.search("prefix|digits only", seen.content) or seen.error_class != "invalid_argument":
                return seen
            if not self.good("repair what the error names"):
                raise GaveUp("the order number was refused")
            right = not right
        raise GaveUp("the order number was refused")

    async def _find_order(self) -> None:
        """Find the order of a customer who has no number: by name, then by item."""
        assert self.slots.name is not None
        name = self.slots.name.title()
        tried = name if self.good("search the right case") else self.slots.name
        self._thought = f"looking for {(self.slots.item or 'the order').capitalize()}"
        listing = await self._pages("find_orders", "name", tried, name, "orders", self.slots.item or "")
        if not listing:
            raise GaveUp("there is no such order")
        matching = [row for row in listing if (self.slots.item or "?") in row.lower()]
        chosen = matching[0] if matching and self.good("pick the right one") else self.rng.choice(listing)
        self.slots.order = _order_number(chosen)
        self._thought = f"looking for {chosen}"

    async def _pages(self, tool: str, key: str, tried: str, right: str, rows: str, wanted: str) -> list[str]:
        """Search, with the other case if nothing is found, page by page until `wanted` (lower case) appears."""
        found: list[str] = []
        page, thought = 1, self._thought
        while True:
            self._thought = thought
            paging = {"page": page} if page > 1 else {}
            seen = await self._persist(tool, **{key: tried}, **paging)
            body = body_of(seen)
            if not body.get(rows) and page == 1 and tried != right and self.good("retry in the right case"):
                tried = right
                continue
            found += [r for r in body.get(rows) or () if isinstance(r, str)]
            if any(wanted in r.lower() for r in found) or not body.get("more"):
                return found
            if not self.good("turn the page"):
                return found
            page += 1

    # ----- goals

    async def _order_view(self) -> dict[str, Any]:
        seen = await self._on_order("get_order")
        if seen.is_error:
            raise GaveUp("I cannot find that order")
        return body_of(seen)

    async def _settled_view(self, key: str, wanted: Any) -> bool:
        """Read the order until it shows a write. The first read after a write is stale; the agent may not know it."""
        for _ in range(3):
            if (await self._order_view()).get(key) == wanted:
                return True
            if not self.good("read again after a write"):
                return False
        return False

    async def _cancel(self) -> str:
        order = f"O-{self.slots.order}"
        status = "processing"
        if self.habit("look first"):
            status = str((await self._order_view()).get("status"))
        if status in ("shipped", "delivered") and self.good("return instead of cancel"):
            return await self._return()
        seen = await self._on_order("cancel_order")
        if seen.error_class == "conflict" and "has shipped" in seen.content:
            if self.good("return instead of cancel"):
                return await self._return()
            raise GaveUp(f"{order} has shipped and cannot be cancelled")
        self._expect_ok(seen, "that was refused")
        if self.habit("check after") and not await self._settled_view("status", "cancelled"):
            if self.rng.random() < 0.5:
                await self._on_order("cancel_order")
            raise GaveUp(f"{order} could not be cancelled")
        return self.words(sy.TELL["cancel"], o=order)

    async def _return(self) -> str:
        if self.habit("read the policy"):
            await self._persist("get_policy", topic="returns")
        seen = await self._on_order("open_return")
        already = seen.error_class == "conflict" and "return open" in seen.content
        if not already:
            self._expect_ok(seen, "the return was refused")
            if not self.good("fetch the return code"):
                return self.words(sy.RETURN_NO_CODE, o=f"O-{self.slots.order}")
        for _ in range(3):
            code = (await self._order_view()).get("return_code")
            if code:
                return self.words(sy.TELL["return"], o=f"O-{self.slots.order}", code=code)
            if not self.good("read again after a write"):
                break
        raise GaveUp("there is no return code")

    async def _refund(self) -> str:
        cents = self.slots.cents
        assert cents is not None
        if self.habit("look first"):
            await self._order_view()
        wrong = (cents / 100, cents / 100, f"{cents / 100:.2f}", cents // 100)
        amount: Any = cents if self.good("cents") else self.rng.choice(wrong)
        seen = await self._on_order("refund_order", cents=amount)
        if seen.error_class == "invalid_argument":
            if not self.good("repair what the error names"):
                raise GaveUp("the amount was refused")
            seen = await self._on_order("refund_order", cents=cents)
        self._expect_ok(seen, "the refund was refused")
        if self.habit("check after") and not await self._settled_view("refunded", amount):
            if self.rng.random() < 0.4:
                raise GaveUp("the refund did not work")
            await self._on_order("refund_order", cents=cents)
        return self.words(sy.TELL["refund"], o=f"O-{self.slots.order}", a=sy.money(cents))

    async def _address(self) -> str:
        slots = self.slots
        if self.habit("look first"):
            await self._order_view()
        self._expect_ok(
            await self._on_order("change_address", address=slots.address), "the change was refused"
        )
        if self.habit("check after") and not await self._settled_view("address", slots.address):
            raise GaveUp("the address could not be changed")
        return self.words(sy.TELL["address"], o=f"O-{slots.order}", d=slots.address)

    async def _track(self) -> str:
        order = f"O-{self.slots.order}"
        if not self.good("ask the carrier"):
            status = (await self._order_view()).get("status")
            return self.words(sy.ONLY_STATUS, o=order, status=status)
        seen = await self._on_order("track_parcel")
        self._expect_ok(seen, "the carrier does not know it")
        body = body_of(seen)
        city, day = body.get("city"), body.get("day")
        if not self.good("state all facts"):
            return self.words(sy.ONLY_PLACE, o=order, city=city)
        if not self.good("state the facts"):
            day = self.rng.choice([d for d in sy.DAYS if d != day])
        return self.words(sy.TELL["track"], o=order, city=city, day=day)

    async def _product(self) -> str:
        line, colour = self.slots.line or "", self.slots.colour or ""
        right = line.capitalize()
        tried = right if self.good("search the right case") else line
        name = f"{right} {colour}"
        self._thought = f"looking for {name}"
        listing = await self._pages("search_products", "query", tried, right, "items", name.lower())
        matching = [row for row in listing if row.lower().startswith(name.lower())]
        if not listing or (not matching and self.rng.random() < 0.6):
            raise GaveUp(f"we have no {name}")
        chosen = matching[0] if matching and self.good("pick the right one") else self.rng.choice(listing)
        self._thought = f"looking for {chosen}"
        seen = await self._persist("get_product", sku=chosen.rpartition(" ")[2])
        self._expect_ok(seen, "I cannot find it")
        body = body_of(seen)
        price, stock = sy.money(int(body.get("cents") or 0)), body.get("stock")
        if not self.good("state all facts"):
            return self.words(sy.ONLY_PRICE, p=name, price=price)
        if not self.good("state the facts"):
            stock = self.rng.randint(1, 40)
        return self.words(sy.TELL["product"], p=name, price=price, stock=stock)

    def _expect_ok(self, seen: Observation, reason: str) -> None:
        if seen.is_error:
            raise GaveUp(reason)


def _order_number(row: str) -> int | None:
    digits = row.rpartition(" ")[2].removeprefix("O-")
    return int(digits) if digits.isascii() and digits.isdigit() else None
