"""Kinds of tools as devices and services have them: a vehicle, and a broker."""

from __future__ import annotations

import random
from typing import Any

from benchmarks.stateful import WORDS, Manners, Names, Part, Refused, Run, Tool

Args = dict[str, Any]


def vehicle(rng: random.Random, names: Names, manners: Manners) -> Part:
    """An engine that starts only with all doors locked, the brake down and fuel in the tank; fuel that driving uses."""
    fuel, doors, brake, engine, held, speed = (names.word() for _ in range(6))
    all_doors = rng.sample(WORDS, 4)
    tank, use, force = rng.choice([40, 50, 60]), rng.choice([10, 20, 25]), rng.choice([100, 1000])
    factor = rng.choice([3.78541, 0.264172])
    modes = rng.sample(WORDS, 3)

    def start(run: Run) -> None:
        locked = {door: False for door in all_doors}
        run.state.update({fuel: run.rng.randrange(20, 10 * tank) / 10, doors: locked, brake: 0, engine: "stopped",
                          held: True, speed: 0, "light": modes[0]})  # fmt: skip

    def fill(run: Run, args: Args) -> Any:
        if args["amount"] < 0:
            raise Refused("the amount must not be negative")
        run.need(fuel)
        if run.state[fuel] + args["amount"] > tank:
            raise Refused(f"the tank holds only {tank}")
        run.state[fuel] = round(run.state[fuel] + args["amount"], 2)
        run.show(fuel)
        return {fuel: run.state[fuel]}

    def lock(run: Run, args: Args) -> Any:
        unknown = [d for d in args[doors] if d not in all_doors]
        if unknown:
            raise Refused(f"there is no door {unknown[0]}")
        for door in args[doors]:
            run.state[doors][door] = not args["open"]
        left = sum(not locked for locked in run.state[doors].values())
        return {"status": "unlocked" if args["open"] else "locked", "left": left}

    def press(run: Run, args: Args) -> Any:
        if not 0 <= args["depth"] <= 1:
            raise Refused("the depth must be between 0 and 1")
        run.state[brake] = args["depth"]
        return {brake: "pressed" if args["depth"] else "released", "force": args["depth"] * force}

    def release(run: Run, args: Args) -> Any:
        run.state[brake] = 0
        return {brake: "released", "force": 0}

    def hold(run: Run, args: Args) -> Any:
        if args["mode"] not in ("engage", "release"):
            raise Refused(f"mode {args['mode']} is not valid")
        run.state[held] = args["mode"] == "engage"
        return {held: "engaged" if run.state[held] else "released"}

    def ignite(run: Run, args: Args) -> Any:
        if args["mode"] == "STOP":
            run.state[engine], run.state[speed] = "stopped", 0
            return {engine: "stopped"}
        unlocked = [d for d, locked in run.state[doors].items() if not locked]
        if unlocked:
            raise Refused("lock all doors first: " + ", ".join(unlocked))
        if run.state[brake] < 1:
            raise Refused("press the brake fully to start")
        run.need(fuel)
        if run.state[fuel] < 1:
            raise Refused("the tank is empty")
        run.state[engine] = "running"
        run.show(fuel)
        return {engine: "running", fuel: run.state[fuel]}

    def cruise(run: Run, args: Args) -> Any:
        if run.state[engine] != "running":
            raise Refused("start the engine first")
        if run.state[held]:
            raise Refused("the parking brake is on")
        if args[speed] % 5 or not 0 <= args[speed] <= 120:
            raise Refused(f"{args[speed]} is no valid speed")
        run.state[speed] = args[speed]
        return {"cruise": "active", speed: args[speed]}

    def drive(run: Run, args: Args) -> Any:
        if run.state[engine] != "running":
            raise Refused("the engine is off")
        run.need(fuel)
        burnt = args["distance"] / use
        if burnt > run.state[fuel]:
            raise Refused("not enough fuel for that")
        run.state[fuel] = round(run.state[fuel] - burnt, 2)
        run.show(fuel)
        return {"driven": args["distance"], fuel: run.state[fuel]}

    def reach(run: Run, args: Args) -> Any:
        run.need(fuel)
        return {"reaches": run.state[fuel] * use >= args["distance"]}

    def show(run: Run, args: Args) -> Any:
        option = args["option"]
        if option == "fuel":
            run.need(fuel)
            run.show(fuel)
            return {fuel: run.state[fuel]}
        if option == "doors":
            return {doors: {d: "locked" if locked else "unlocked" for d, locked in run.state[doors].items()}}
        if option == "engine":
            return {engine: run.state[engine], speed: run.state[speed]}
        if option == "brakes":
            return {held: "engaged" if run.state[held] else "released", "depth": run.state[brake]}
        raise Refused(f"{option} is no option")

    def convert(run: Run, args: Args) -> Any:
        return {"converted": args["amount"] * factor}

    def light(run: Run, args: Args) -> Any:
        if args["mode"] not in modes:
            raise Refused(f"mode {args['mode']} is not valid")
        run.state["light"] = args["mode"]
        return {"light": "on" if args["mode"] != modes[0] else "off"}

    def some(run: Run, r: random.Random) -> Args:
        which = list(all_doors) if r.random() < 0.7 else r.sample(all_doors, r.randrange(1, 3))
        return {doors: which if r.random() < 0.96 else [*which, r.choice(WORDS)], "open": r.random() < 0.15}

    options = ["fuel", "fuel", "doors", "engine", "brakes", "x"]
    tools = [Tool(names.tool(), fill, lambda run, r: {"amount": r.randrange(-2, 25)}),
             Tool(names.tool(), lock, some, 2.0),
             Tool(names.tool(), press, lambda run, r: {"depth": r.choice([1, 1, 1, 0.5, 0, 2])}, 1.5),
             Tool(names.tool(), release, lambda run, r: {}, 0.4),
             Tool(names.tool(), hold, lambda run, r: {"mode": r.choice(["engage", "release", "release", "off"])}),
             Tool(names.tool(), ignite, lambda run, r: {"mode": "START" if r.random() < 0.85 else "STOP"}, 2.5),
             Tool(names.tool(), cruise, lambda run, r: {speed: r.choice([30, 45, 60, 62, 90, 125])}, 1.5),
             Tool(names.tool(), drive, lambda run, r: {"distance": r.randrange(5, 400)}, 1.5),
             Tool(names.tool(), reach, lambda run, r: {"distance": r.randrange(5, 900)}),
             Tool(names.tool(), show, lambda run, r: {"option": r.choice(options)}, 2),
             Tool(names.tool(), convert, lambda run, r: {"amount": r.randrange(1, 90)}, 0.5),
             Tool(names.tool(), light, lambda run, r: {"mode": r.choice([*modes, "x"])}, 0.5)]  # fmt: skip
    return Part("vehicle", tools, start)


def broker(rng: random.Random, names: Names, manners: Manners) -> Part:
    """An account with orders whose status moves on, a balance, a list of watched goods, and prices."""
    symbol, price, amount, status, orders, watched, money = (names.word() for _ in range(7))
    words = [w[:4].upper() for w in rng.sample(WORDS, 8)]
    goods = {w: round(rng.uniform(5, 400), 2) for w in words}
    sectors = {"tech": words[:3], "auto": words[3:5], "food": words[5:]}
    first, step = rng.randrange(1000, 90000), rng.choice([1, 1, 10])

    def start(run: Run) -> None:
        run.state.update({money: round(run.rng.uniform(500, 9000), 2), orders: {}, "in": False,
                          watched: run.rng.sample(words, 2)})  # fmt: skip

    def inside(run: Run) -> None:
        if not run.state["in"]:
            raise Refused("log in first")

    def enter(run: Run, args: Args) -> Any:
        if run.state["in"]:
            return {status: "already logged in"}
        run.state["in"] = True
        return {status: "logged in"}

    def leave(run: Run, args: Args) -> Any:
        inside(run)
        run.state["in"] = False
        return {status: "logged out"}

    def quote(run: Run, args: Args) -> Any:
        if args[symbol] not in goods:
            raise Refused(f"no stock {args[symbol]}")
        return {symbol: args[symbol], price: goods[args[symbol]], "share": round(goods[args[symbol]] / 1000, 3)}

    def listed(run: Run, args: Args) -> Any:
        return {"stocks": sectors.get(args["sector"], [])}

    def place(run: Run, args: Args) -> Any:
        inside(run)
        if args[symbol] not in goods:
            raise Refused(f"no stock {args[symbol]}")
        if args[price] <= 0 or args[amount] <= 0:
            raise Refused("price and amount must be positive")
        cost = round(args[price] * args[amount], 2)
        if args["side"] == "buy":
            run.need(money)
            if cost > run.state[money]:
                raise Refused("the balance is too low")
        number = first + step * len(run.state[orders])
        order = {"number": number, "side": args["side"], symbol: args[symbol], price: args[price], amount: args[amount],
                 status: "Open"}  # fmt: skip
        run.state[orders][number] = order
        return {"number": number, "side": args["side"], status: "Pending", price: args[price], amount: args[amount]}

    def find(run: Run, args: Args) -> dict[str, Any]:
        inside(run)
        if args["number"] not in run.state[orders]:
            raise Refused(f"no order {args['number']}")
        return run.state[orders][args["number"]]

    def details(run: Run, args: Args) -> Any:
        return dict(find(run, args))

    def cancel(run: Run, args: Args) -> Any:
        order = find(run, args)
        if order[status] in ("Completed", "Cancelled"):
            raise Refused(f"order {args['number']} is {order[status]}")
        order[status] = "Cancelled"
        return {"number": args["number"], status: "Cancelled"}

    def fill(run: Run, args: Args) -> Any:
        order = find(run, args)
        if order[status] != "Open":
            raise Refused(f"order {args['number']} cannot be filled")
        run.need(money)
        change = round(order[price] * order[amount], 2)
        run.state[money] = round(run.state[money] + (change if order["side"] == "sell" else -change), 2)
        order[status] = "Completed"
        return {"number": args["number"], status: "Completed", "moved": change}

    def history(run: Run, args: Args) -> Any:
        inside(run)
        return {"history": list(run.state[orders])}

    def account(run: Run, args: Args) -> Any:
        inside(run)
        run.need(money)
        run.show(money)
        return {money: run.state[money]}

    def transfer(run: Run, args: Args) -> Any:
        inside(run)
        if args[amount] <= 0:
            raise Refused("the amount must be positive")
        run.need(money)
        if args["kind"] == "withdraw":
            if args[amount] > run.state[money]:
                raise Refused(f"only {run.state[money]} there")
            run.state[money] = round(run.state[money] - args[amount], 2)
        else:
            run.state[money] = round(run.state[money] + args[amount], 2)
        run.show(money)
        return {status: f"{args['kind']} done", f"new_{money}": run.state[money]}

    def watch(run: Run, args: Args) -> Any:
        inside(run)
        if args[symbol] not in goods:
            raise Refused(f"no stock {args[symbol]}")
        run.need(watched)
        if args[symbol] not in run.state[watched]:
            run.state[watched] = [*run.state[watched], args[symbol]]
        run.show(watched)
        return {watched: list(run.state[watched])}

    def unwatch(run: Run, args: Args) -> Any:
        inside(run)
        run.need(watched)
        if args[symbol] not in run.state[watched]:
            raise Refused(f"{args[symbol]} is not watched")
        run.state[watched] = [w for w in run.state[watched] if w != args[symbol]]
        return {status: f"{args[symbol]} removed"}

    def watching(run: Run, args: Args) -> Any:
        inside(run)
        run.need(watched)
        run.show(watched)
        return {watched: list(run.state[watched])}

    def between(run: Run, args: Args) -> Any:
        return {"stocks": [w for w in args["stocks"] if args["low"] <= goods[w] <= args["high"]]}

    def good(r: random.Random) -> str:
        return r.choice(words) if r.random() < 0.92 else "Z" + r.choice(WORDS)[:3].upper()

    def order_of(run: Run, r: random.Random) -> Args:
        known = list(run.state[orders])
        return {"number": r.choice(known) if known and r.random() < 0.9 else r.randrange(1, 99)}

    def bid(run: Run, r: random.Random) -> Args:
        which = good(r)
        return {"side": r.choice(["buy", "buy", "sell"]), symbol: which, price: goods.get(which, 10.0),
                amount: r.randrange(0, 30)}  # fmt: skip

    tools = [Tool(names.tool(), enter, lambda run, r: {"user": r.choice(WORDS), "secret": r.choice(WORDS)}, 2.0),
             Tool(names.tool(), leave, lambda run, r: {}, 0.2),
             Tool(names.tool(), quote, lambda run, r: {symbol: good(r)}),
             Tool(names.tool(), listed, lambda run, r: {"sector": r.choice([*sectors, "none"])}, 0.7),
             Tool(names.tool(), place, bid, 2.5), Tool(names.tool(), details, order_of, 1.5),
             Tool(names.tool(), cancel, order_of), Tool(names.tool(), fill, order_of),
             Tool(names.tool(), history, lambda run, r: {}, 0.7), Tool(names.tool(), account, lambda run, r: {}, 1.5),
             Tool(names.tool(), transfer, lambda run, r: {"kind": r.choice(["deposit", "withdraw"]),
                                                          amount: r.randrange(-20, 2000)}),
             Tool(names.tool(), watch, lambda run, r: {symbol: good(r)}),
             Tool(names.tool(), unwatch, lambda run, r: {symbol: good(r)}, 0.7),
             Tool(names.tool(), watching, lambda run, r: {}),
             Tool(names.tool(), between, lambda run, r: {"stocks": r.sample(words, 4), "low": r.randrange(0, 150),
                                                         "high": r.randrange(150, 400)}, 0.7)]  # fmt: skip
    return Part("broker", tools, start)
