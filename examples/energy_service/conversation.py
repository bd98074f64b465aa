"""The agent's side of a conversation: messages, tool calls with their repairs, and identifying the caller.

agent.py adds what the agent does about each kind of wish.
"""

from __future__ import annotations

import random
import re
from typing import Any

from training.environment import Episode, Observation, Start, ToolCall

from ..shared import body_of
from .language import sayings as s
from .language.reading import Slots, read_first, read_slots

FAULTS = {
    "skips verification": 0.3,
    "guesses the digits": 0.12,
    "stops at a refusal": 0.3,
    "number as written": 0.4,
    "stops at a timeout": 0.5,
    "does not search": 0.25,
    "first page only": 0.38,
    "wrong item": 0.2,
    "wrong meter": 0.13,
    "does not read again": 0.22,
    "believes the first read": 0.24,
    "forces the reading": 0.3,
    "refuses the reading": 0.2,
    "no offer": 0.17,
    "wrong offer": 0.14,
    "does not ask": 0.25,
    "no details": 0.3,
    "vague": 0.16,
    "wrong field": 0.12,
    "answers first": 0.08,
    "makes it up": 0.2,
    "no second try": 0.6,
}
"""Probability of each fault, per conversation."""

CAREFUL = 0.35
"""Probability that the agent looks before it changes something. Neither right nor wrong."""

MAX_MESSAGES, MAX_CALLS = 8, 16
TRIES = 4
"""Attempts at one call, with repairs between them."""


class GaveUp(Exception):
    """The wish is not fulfilled; the message is the reason that the agent gives."""


class Gone(Exception):
    """The customer has left."""


class Conversation:
    """One conversation of the agent, with the faults that were drawn for it."""

    def __init__(self, episode: Episode, start: Start, rng: random.Random, faults: bool) -> None:
        self._episode, self._rng = episode, rng
        self.messages: list[dict[str, Any]] = [
            {"role": "system", "content": start.system},
            {"role": "user", "content": start.first_user_message},
        ]
        drawn = {fault for fault, probability in FAULTS.items() if rng.random() < probability}
        self._faults = drawn if faults else set[str]()
        self._careful = rng.random() < CAREFUL
        self._slots: Slots = read_first(start.first_user_message)
        self._verified = False
        self._calls = 0
        self._said = 0

    def _bad(self, fault: str) -> bool:
        return fault in self._faults

    def _words(self, templates: tuple[str, ...], **values: Any) -> str:
        return self._rng.choice(templates).format(**values)

    async def _say(self, text: str) -> str:
        """Send a message; returns the customer's. Raises Gone if the customer leaves, or after the last message."""
        self.messages.append({"role": "assistant", "content": text})
        self._said += 1
        heard = await self._episode.respond(text)
        if heard is None:
            raise Gone
        self.messages.append({"role": "user", "content": heard})
        if self._said >= MAX_MESSAGES:
            raise Gone
        read_slots(heard, self._slots)
        return heard

    # ----- calls

    async def _call(self, tool: str, **arguments: Any) -> Observation:
        self._calls += 1
        if self._calls > MAX_CALLS:
            raise GaveUp("this takes too long")
        call = ToolCall(tool, arguments, f"call_{self._calls}")
        asked = {"id": call.call_id, "name": tool, "arguments": arguments}
        self.messages.append({"role": "assistant", "content": None, "tool_calls": [asked]})
        seen = await self._episode.observe(call)
        self.messages.append(
            {
                "role": "tool",
                "content": seen.content,
                "tool_call_id": call.call_id,
                "name": tool,
                "is_error": seen.is_error,
                "error_class": seen.error_class,
                "latency_ms": seen.latency_ms,
            }
        )
        return seen

    async def _do(self, tool: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
        """Call a tool, and repair what a refusal names. Returns the error class, or "", and the body."""
        for _ in range(TRIES):
            seen = await self._call(tool, **arguments)
            code = seen.error_class
            if code == "upstream_timeout":
                if self._bad("stops at a timeout"):
                    raise GaveUp("our system does not answer")
            elif code in ("not_verified", "bad_meter_no", "bad_contract_no"):
                if self._bad("stops at a refusal"):
                    raise GaveUp("you are not verified" if code == "not_verified" else "the number is not accepted")
                await self._repair(code, arguments)
            else:
                body = body_of(seen)
                return (code, body.get("fault") or {}) if seen.is_error else ("", body)
        raise GaveUp("our system does not answer")

    async def _repair(self, code: str, arguments: dict[str, Any]) -> None:
        """Verify the caller, or bring a number in `arguments` into the right form."""
        if code == "not_verified":
            await self._verify()
        elif code == "bad_meter_no":
            arguments["meter_no"] = arguments["meter_no"].replace(" ", "")
        else:
            self._slots.contract = f"C-{arguments['contract_no'].removeprefix('C-')}"
            arguments["contract_no"] = self._slots.contract

    # ----- the caller and the contract

    async def _find_contract(self, asks_iban: bool = False) -> str:
        """The contract number: known, asked for, or searched by name and address."""
        slots = self._slots
        if slots.contract is None and slots.name is None:
            verifies = not self._bad("skips verification") and not self._bad("guesses the digits")
            both = asks_iban and slots.iban is None and verifies
            await self._say(self._words(s.ASK_BOTH if both else s.ASK_CONTRACT))
        number = slots.contract or await self._search()
        if re.fullmatch(r"\d{5}", number) and not self._bad("number as written"):
            number = f"C-{number}"
        slots.contract = number
        return number

    async def _search(self) -> str:
        """The number of a contract that is found by name and address."""
        slots = self._slots
        if slots.name is None or self._bad("does not search"):
            raise GaveUp("I need the contract number for this")
        who = {"holder": slots.name, "postcode": slots.postcode}
        where = {"street": slots.street}
        _, body = await self._do("find_contracts", **who, **(where if self._careful else {}))
        found = rows_of(body, "contracts")
        fitting = [row for row in found if row.get("street") == slots.street]
        if not fitting and body.get("truncated") and not self._bad("first page only"):
            _, body = await self._do("find_contracts", **who, **where)
            fitting = found = rows_of(body, "contracts")
        if not found:
            raise GaveUp("I find no contract under this name")
        chosen = self._rng.choice(found) if self._bad("wrong item") or not fitting else fitting[0]
        return chosen["contract_no"]

    async def _verify(self) -> None:
        """Verify the caller by the last digits of the IBAN. Raises GaveUp after two attempts."""
        if self._verified:
            return
        contract = await self._find_contract(asks_iban=True)
        for _ in range(2):
            digits = await self._digits()
            code, _ = await self._do("verify_holder", contract_no=self._slots.contract or contract, iban_last4=digits)
            if not code:
                self._verified = True
                return
            if code != "iban_mismatch" or self._bad("stops at a refusal"):
                break
        raise GaveUp("I could not verify you")

    async def _digits(self) -> str:
        """The last four digits of the IBAN: known, guessed once, or asked for."""
        if self._slots.iban is None and self._bad("guesses the digits"):
            self._faults.discard("guesses the digits")
            return f"{self._rng.randrange(10000):04d}"
        if self._slots.iban is None:
            await self._say(self._words(s.ASK_IBAN))
        return self._slots.iban or "0000"

    async def _start_change(self) -> str:
        """The contract number, after verification unless the agent skips it."""
        contract = await self._find_contract(asks_iban=True)
        if not self._bad("skips verification"):
            await self._verify()
        return self._slots.contract or contract

    async def _contract(self) -> dict[str, Any]:
        code, body = await self._do("get_contract", contract_no=await self._find_contract())
        if code:
            raise GaveUp("I cannot find that contract")
        return body

    async def _starts_on(self, key: str) -> str | None:
        """The date from which a queued change applies. The first read after a change is stale."""
        if self._bad("does not read again"):
            return None
        for _ in range(3):
            body = await self._contract()
            if body.get("change") == "done" or self._bad("believes the first read"):
                return body.get(key)
        return None


def rows_of(body: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return [row for row in body.get(key) or () if isinstance(row, dict)]
