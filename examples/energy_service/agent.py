"""The production agent: a script in the manner of an LLM agent, with faults.

Each fault of FAULTS is drawn once per conversation. `faults=False` switches all of them off. The agent knows only the
conversation, so it works in any Episode, real or learned.
"""

from __future__ import annotations

import random
import re
from typing import Any

from training.environment import Episode, Start

from .conversation import Conversation, GaveUp, Gone, rows_of
from .language import sayings as s
from .language.words import TARIFF_NAMES, TARIFFS

_GOODBYE = re.compile(r"thank|goodbye|hotline|manager", re.I)


async def run_scripted(episode: Episode, start: Start, rng: random.Random, faults: bool = True) -> list[dict[str, Any]]:
    """Run the agent to the end of the conversation. Returns the messages: the system prompt first, tool results with
    error class and latency."""
    agent = Agent(episode, start, rng, faults)
    await agent.run()
    return agent.messages


class Agent(Conversation):
    """One run. `_wrote` is the answer to the change that was made; a change is made once."""

    def __init__(self, episode: Episode, start: Start, rng: random.Random, faults: bool) -> None:
        super().__init__(episode, start, rng, faults)
        self._wrote: dict[str, Any] | None = None
        self._wishes = {
            "reading": self._reading,
            "usage": self._usage,
            "instalment": self._instalment,
            "switch": self._switch,
            "advice": self._advice,
            "invoice": self._invoice,
            "defer": self._defer,
        }

    async def run(self) -> None:
        """Talk until the customer leaves."""
        try:
            text = await self._attempt()
            while True:
                heard = await self._say(text)
                if _GOODBYE.search(heard):
                    text = self._words(s.GOODBYE)
                elif self._bad("no second try"):
                    text = self._words(s.NOTHING)
                else:
                    self._faults = {f for f in sorted(self._faults) if self._rng.random() < 0.4}
                    text = await self._attempt()
        except Gone:
            pass

    async def _attempt(self) -> str:
        """Work on the wish; returns the answer."""
        kind = self._slots.kind
        if self._bad("answers first"):
            self._faults.discard("answers first")
            return self._invented()
        try:
            return await self._wishes[kind]()
        except GaveUp as reason:
            if self._bad("makes it up") and kind != "advice":
                return self._invented()
            return self._words(s.SORRY, reason=reason)

    # ----- answers

    def _tell(self, **values: Any) -> str:
        """The answer with its facts; vague if a fact is missing or by mistake."""
        kind = self._slots.kind
        vague = kind in s.VAGUE and (self._bad("vague") or None in values.values())
        return self._words(s.VAGUE[kind] if vague else s.TELL[kind], **values)

    def _invented(self) -> str:
        """An answer whose facts are made up."""
        rng, slots = self._rng, self._slots
        values = {
            "kwh": slots.kwh or rng.randint(4000, 80000),
            "used": rng.randint(300, 3000),
            "place": slots.place,
            "eur": slots.eur or rng.randint(40, 190),
            "tariff": slots.tariff or rng.choice(TARIFF_NAMES),
            "day": f"2026-0{rng.randint(4, 6)}-{rng.choice(('01', '15', '28'))}",
            "month": self._month(),
            "ct": rng.randint(90, 390) / 10,
        }
        vague = slots.kind in s.VAGUE and rng.random() < 0.4
        return self._words(s.VAGUE[slots.kind] if vague else s.TELL[slots.kind], **values)

    def _month(self) -> str:
        return self._slots.period.split()[0] if self._slots.period else "that month"

    async def _offer(self, templates: tuple[str, ...], wanted: int, limit: int, other: int) -> int | None:
        """Offer the limit, or wrongly another value; returns what was offered, or None if the customer declines."""
        if self._bad("no offer"):
            raise GaveUp("the value is not within the allowed range")
        offered = other if self._bad("wrong offer") else limit
        if self._bad("does not ask"):
            return offered
        heard = await self._say(self._words(templates, wanted=wanted, limit=offered))
        return None if re.match(r"no\b|then no", heard.lower()) else offered

    # ----- meters

    async def _meter_no(self) -> str:
        meters = rows_of(await self._contract(), "meters")
        fitting = [m for m in meters if m.get("place") == self._slots.place]
        others = [m for m in meters if m not in fitting]
        if not meters:
            raise GaveUp("I find no meter")
        chosen = (others or fitting)[0] if self._bad("wrong meter") or not fitting else fitting[0]
        shown = str(chosen.get("meter_no"))
        return shown if self._bad("number as written") else shown.replace(" ", "")

    async def _reading(self) -> str:
        if self._wrote is None:
            self._wrote = await self._submit_reading(await self._meter_no(), self._slots.kwh or 0)
        return self._tell(kwh=self._wrote.get("kwh"), used=self._wrote.get("used_kwh"), place=self._slots.place)

    async def _submit_reading(self, meter: str, kwh: int) -> dict[str, Any]:
        """Record a reading; asks about an unusual one, or forces it. Raises GaveUp after three attempts."""
        if self._careful:
            await self._do("get_meter", meter_no=meter)
            meter = meter.replace(" ", "")
        confirmed = False
        for _ in range(3):
            extra = {"confirmed": True} if confirmed else {}
            code, body = await self._do("submit_reading", meter_no=meter, kwh=kwh, **extra)
            meter = meter.replace(" ", "")
            if not code:
                return body
            if code not in ("implausible", "below_last") or self._bad("refuses the reading"):
                break
            if code == "implausible" and self._bad("forces the reading"):
                confirmed = True
                continue
            expected = body.get("expected_kwh") or body.get("last_kwh")
            heard = await self._say(self._words(s.CHECK_READING, kwh=kwh, expected=expected))
            if corrected := re.search(r"\d{3,6}", heard):
                kwh = self._slots.kwh = int(corrected[0])
            else:
                confirmed = True
        raise GaveUp("the reading is not plausible")

    async def _usage(self) -> str:
        code, body = await self._do("get_meter", meter_no=await self._meter_no())
        if code:
            raise GaveUp("I cannot find that meter")
        kwh = body.get("expected_kwh" if self._bad("wrong field") else "last_kwh")
        return self._tell(kwh=kwh, day=body.get("last_date"), place=self._slots.place)

    # ----- instalments

    async def _instalment(self) -> str:
        if self._wrote is None:
            contract, wanted = await self._start_change(), self._slots.eur or 0
            if self._careful:
                await self._contract()
            code, body = await self._do("set_instalment", contract_no=contract, eur=wanted)
            if code == "out_of_range":
                low = wanted < body.get("min_eur", 0)
                limit = body.get("min_eur" if low else "max_eur", wanted)
                other = limit + self._rng.choice((3, 5, 10)) * (1 if low else -1)
                offered = await self._offer(s.OFFER_EUR, wanted, limit, other)
                if offered is None:
                    return self._words(s.LEFT_EUR, limit=limit)
                code, body = await self._do("set_instalment", contract_no=self._slots.contract, eur=offered)
            if code:
                raise GaveUp("the change was refused")
            self._wrote = body
        day = await self._starts_on("instalment_from")
        return self._tell(eur=self._wrote.get("instalment_eur"), day=day)

    # ----- tariffs

    async def _switch(self) -> str:
        slots = self._slots
        if self._wrote is None:
            await self._start_change()
            view = await self._contract()
            fuel, postcode = str(view.get("fuel") or slots.fuel), str(view.get("postcode") or "")
            chosen = await self._pick_tariff(fuel, postcode)
            code, body = await self._do("switch_tariff", contract_no=slots.contract, tariff_code=chosen.get("code"))
            if code in ("fixed_term", "arrears") and not self._bad("no details"):
                eur = f"{body.get('eur') or 0:.2f}"
                return self._words(s.REFUSED[code], day=body.get("fixed_until"), eur=eur)
            if code:
                raise GaveUp("the change is blocked at the moment")
            self._wrote = body
        day = await self._starts_on("tariff_from")
        return self._tell(tariff=self._wrote.get("tariff"), day=day)

    async def _advice(self) -> str:
        slots = self._slots
        if slots.postcode is None:
            await self._say(self._words(s.ASK_POSTCODE))
        fuel = next((fuel for fuel, group in TARIFFS.items() if slots.tariff in dict(group)), slots.fuel)
        chosen = await self._pick_tariff(fuel, slots.postcode or "")
        price = chosen.get("base_eur" if self._bad("wrong field") else "ct_kwh")
        return self._tell(tariff=chosen.get("name"), ct=price)

    async def _pick_tariff(self, fuel: str, postcode: str) -> dict[str, Any]:
        """The tariff that fits the wish. The usual mistakes: the first one, the lowest base price, or any."""
        code, body = await self._do("list_tariffs", fuel=fuel, postcode=postcode)
        rows = rows_of(body, "tariffs")
        if code or not rows:
            raise GaveUp("I find no tariff")
        if self._bad("wrong item"):
            lowest_base = min(rows, key=lambda row: row.get("base_eur", 0))
            return self._rng.choice((rows[0], lowest_base, self._rng.choice(rows)))
        if self._slots.wish == "named":
            return next((row for row in rows if row.get("name") == self._slots.tariff), rows[0])
        green = [row for row in rows if row.get("green")] if self._slots.wish == "green" else []
        return min(green or rows, key=lambda row: row.get("ct_kwh", 0))

    # ----- invoices

    async def _find_invoice(self) -> dict[str, Any]:
        """The invoice of the period that the customer named, on up to three pages."""
        await self._start_change()
        rows: list[dict[str, Any]] = []
        for page in range(3):
            paging = {"offset": len(rows)} if page else {}
            code, body = await self._do("list_invoices", contract_no=self._slots.contract, **paging)
            if code:
                raise GaveUp("I cannot see your invoices")
            rows += rows_of(body, "invoices")
            if rows and self._bad("wrong item"):
                return self._rng.choice(rows)
            fitting = [row for row in rows if row.get("period") == self._slots.period]
            if fitting:
                return fitting[0]
            if not body.get("truncated") or self._bad("first page only"):
                break
        raise GaveUp("there is no such invoice")

    async def _invoice(self) -> str:
        row = await self._find_invoice()
        return self._tell(month=self._month(), eur=f"{row.get('eur') or 0:.2f}", day=row.get("due"))

    async def _defer(self) -> str:
        if self._wrote is None:
            invoice, wanted = await self._find_invoice(), self._slots.days or 0
            number = invoice.get("invoice_no")
            code, body = await self._do("defer_invoice", invoice_no=number, days=wanted)
            if code == "too_long":
                limit = body.get("max_days", wanted)
                offered = await self._offer(s.OFFER_DAYS, wanted, limit, limit - self._rng.choice((4, 7)))
                if offered is None:
                    return self._words(s.LEFT_DAYS, limit=limit)
                code, body = await self._do("defer_invoice", invoice_no=number, days=offered)
            if code == "already_deferred" and not self._bad("no details"):
                return self._words(s.REFUSED[code], month=self._month(), day=body.get("due"))
            if code:
                raise GaveUp("the extension was refused")
            self._wrote = body
        day = self._wrote.get("old_due" if self._bad("wrong field") else "due")
        return self._tell(month=self._month(), day=day)
