"""A kind of tools that answer in sentences only: parcels in lockers."""

from __future__ import annotations

import random
from datetime import date, timedelta
from typing import Any

from benchmarks.stateful import Manners, Names, Part, Refused, Run, Tool

Args = dict[str, Any]


def lockers(rng: random.Random, names: Names, manners: Manners) -> Part:
    """Parcels that are put into lockers, asked for, kept for longer once at a price a day, and taken out."""
    parcel, locker, code, days = (names.word() for _ in range(4))
    price, most = rng.choice([0.5, 1.5, 2.25]), rng.choice([5, 7, 10])
    stays = rng.choice(["{parcel} {0} is in {locker} {1} until {2}.", "{locker} {1}: {parcel} {0}, until {2}"])
    gone = rng.choice(["{parcel} {0} was collected.", "There is no {parcel} {0} any more"])

    def said(text: str, *values: Any) -> str:
        return text.format(*values, parcel=parcel.title(), locker=locker)

    def start(run: Run) -> None:
        run.state[parcel] = {}
        for number in run.rng.sample(range(1, 40), 3):
            until = date(2026, 5, 1) + timedelta(days=run.rng.randrange(3, 20))
            held = _Held(number, f"{run.rng.randrange(100, 999)}", until)
            run.state[parcel][f"PK-{run.rng.randrange(1000, 9999)}"] = held

    def find(run: Run, args: Args) -> _Held:
        held: _Held | None = run.state[parcel].get(args[parcel])
        if held is None:
            run.need(parcel, args[parcel])
            run.show(parcel, args[parcel])
            raise Refused(said("{parcel} {0} is not known", args[parcel]))
        run.need(parcel, args[parcel])
        return held

    def show(run: Run, args: Args) -> Any:
        held = find(run, args)
        run.show(parcel, args[parcel])
        return said(gone if held.gone else stays, args[parcel], held.number, held.until)

    def put(run: Run, args: Args) -> Any:
        taken = {held.number for held in run.state[parcel].values() if not held.gone}
        if args[locker] in taken:
            run.need(locker, args[locker])
            run.show(locker, args[locker])
            raise Refused(said("{locker} {0} is taken", args[locker]))
        run.need(locker, args[locker])
        until = date.fromisoformat(args["day"]) + timedelta(days=most)
        run.state[parcel][args[parcel]] = _Held(args[locker], args[code], until)
        for cell in (parcel, code, days):
            run.show(cell, args[parcel])
        run.show(locker, args[locker])
        return said("{parcel} {0} is in {locker} {1} until {2}.", args[parcel], args[locker], until)

    def take(run: Run, args: Args) -> Any:
        held = find(run, args)
        if held.gone:
            raise Refused(said(gone, args[parcel]))
        run.need(code, args[parcel])
        if held.code != args[code]:
            raise Refused(said("wrong code for {parcel} {0}", args[parcel]))
        held.gone = True
        run.show(locker, held.number)
        return said("{locker} {0} was opened.", held.number)

    def keep(run: Run, args: Args) -> Any:
        if not 1 <= args[days] <= most:
            raise Refused(f"a stay is extended by 1 to {most} days, not {args[days]}")
        held = find(run, args)
        if held.gone:
            raise Refused(said(gone, args[parcel]))
        run.need(days, args[parcel])
        run.show(days, args[parcel])
        if held.longer:
            raise Refused(said("{parcel} {0} was extended before", args[parcel]))
        held.longer, held.until = True, held.until + timedelta(days=args[days])
        return said("{parcel} {0} stays until {1}. It costs {2:.2f} EUR.", args[parcel], held.until, price * args[days])

    def which(run: Run, r: random.Random) -> Args:
        known = list(run.state[parcel])
        return {parcel: r.choice(known) if r.random() < 0.92 else f"PK-{r.randrange(100, 999)}"}

    def new(run: Run, r: random.Random) -> Args:
        made = {parcel: f"PK-{r.randrange(1000, 9999)}", locker: r.randrange(1, 40)}
        return {**made, code: f"{r.randrange(100, 999)}", "day": f"2026-05-{r.randrange(10, 29)}"}

    def opening(run: Run, r: random.Random) -> Args:
        chosen = which(run, r)
        held = run.state[parcel].get(chosen[parcel])
        return {**chosen, code: held.code if held and r.random() < 0.7 else f"{r.randrange(100, 999)}"}

    tools = [Tool(names.tool(), show, which, 3.0), Tool(names.tool(), put, new, 1.5),
             Tool(names.tool(), take, opening, 1.5),
             Tool(names.tool(), keep, lambda run, r: {**which(run, r), days: r.randrange(1, most + 2)})]  # fmt: skip
    return Part("lockers", tools, start)


class _Held:
    """A parcel: its locker, the code that opens it, how long it stays, and whether it was extended or collected."""

    def __init__(self, number: int, code: str, until: date) -> None:
        self.number, self.code, self.until = number, code, until
        self.longer = self.gone = False
