"""Kinds of tools that keep a state. Each function is one kind."""

from __future__ import annotations

import random
from typing import Any

from benchmarks.stateful import WORDS, Manners, Names, Part, Refused, Run, Tool

Args = dict[str, Any]


def login(rng: random.Random, names: Names, manners: Manners) -> Part:
    """A session that is entered and left; what needs it is refused outside it."""
    a, b, field, note = names.word(), names.word(), names.word(), names.word()

    def enter(run: Run, args: Args) -> Any:
        if run.state[a]:
            raise Refused(f"{run.state[a]} is in a session already")
        run.state[a] = args[b]
        return manners.done(f"welcome {args[b]}")

    def leave(run: Run, args: Args) -> Any:
        if not run.state[a]:
            raise Refused("there is no session")
        run.state[a] = None
        return manners.done("goodbye")

    def status(run: Run, args: Args) -> Any:
        return {field: bool(run.state[a])}

    def act(run: Run, args: Args) -> Any:
        if not run.state[a]:
            raise Refused("enter a session first")
        return {"by": run.state[a], note: args[note]}

    def draw(run: Run, r: random.Random) -> Args:
        return {b: r.choice(WORDS) + str(r.randrange(90)), "secret": r.choice(WORDS)}

    tools = [Tool(names.tool(), enter, draw), Tool(names.tool(), leave, lambda run, r: {}, 0.6),
             Tool(names.tool(), status, lambda run, r: {}),
             Tool(names.tool(), act, lambda run, r: {note: " ".join(r.sample(WORDS, 2))}, 2.0)]  # fmt: skip
    return Part("login", tools, lambda run: run.state.__setitem__(a, None))


def place(rng: random.Random, names: Names, manners: Manners) -> Part:
    """A current place that names are looked up in: each place has a list of names, each name a text."""
    at, here, name, text, items = names.word(), names.word(), names.word(), names.word(), names.word()
    rooms = rng.sample(WORDS, 4)
    shown = rng.random() < 0.5

    def start(run: Run) -> None:
        run.state[at] = rooms[0]
        run.state[items] = {room: {w: " ".join(run.rng.choices(WORDS, k=4)) for w in run.rng.sample(WORDS, 2)}
                            for room in rooms}  # fmt: skip

    def inside(run: Run) -> dict[str, str]:
        return run.state[items][run.state[at]]

    def find(run: Run, args: Args) -> str:
        if (items, run.state[at], args[name]) not in run.known:
            run.need(items, run.state[at])
        if args[name] not in inside(run):
            raise Refused(f"{args[name]} is not here")
        return args[name]

    def go(run: Run, args: Args) -> Any:
        if args[here] not in rooms:
            raise Refused(f"no such place: {args[here]}")
        run.state[at] = args[here]
        return {here: args[here]} if shown else manners.done("moved")

    def where(run: Run, args: Args) -> Any:
        return {here: run.state[at]}

    def view(run: Run, args: Args) -> Any:
        run.need(items, run.state[at])
        run.show(items, run.state[at])
        for word in inside(run):
            run.show(items, run.state[at], word)
        return {items: list(inside(run))}

    def put(run: Run, args: Args) -> Any:
        run.need(items, run.state[at])
        if args[name] in inside(run):
            raise Refused(f"cannot make {args[name]}: it exists")
        inside(run)[args[name]] = args[text]
        run.show(items, run.state[at], args[name])
        run.show(text, run.state[at], args[name])
        return manners.done(f"made {args[name]}")

    def read(run: Run, args: Args) -> Any:
        word = find(run, args)
        run.need(text, run.state[at], word)
        run.show(text, run.state[at], word)
        return {text: inside(run)[word]}

    def drop(run: Run, args: Args) -> Any:
        word = find(run, args)
        del inside(run)[word]
        return manners.done(f"'{word}' removed")

    def size(run: Run, args: Args) -> Any:
        word = find(run, args)
        run.need(text, run.state[at], word)
        return {"words": len(inside(run)[word].split()), "length": len(inside(run)[word])}

    def pick(run: Run, r: random.Random) -> Args:
        found = list(inside(run))
        return {name: r.choice(found) if found and r.random() < 0.8 else r.choice(WORDS)}

    tools = [Tool(names.tool(), go, lambda run, r: {here: r.choice(rooms) if r.random() < 0.9 else r.choice(WORDS)}),
             Tool(names.tool(), where, lambda run, r: {}, 0.5), Tool(names.tool(), view, lambda run, r: {}, 1.5),
             Tool(names.tool(), put, lambda run, r: {name: r.choice(WORDS), text: " ".join(r.choices(WORDS, k=3))}),
             Tool(names.tool(), read, pick, 1.5), Tool(names.tool(), drop, pick, 0.7),
             Tool(names.tool(), size, pick)]  # fmt: skip
    return Part("place", tools, start)


def interlock(rng: random.Random, names: Names, manners: Manners) -> Part:
    """B only after A in this episode, and not where A was undone; a number of latches that must all be shut."""
    pedal, latch, running, open_ = names.word(), names.word(), names.word(), names.word()
    latches = rng.sample(WORDS, 3)

    def start(run: Run) -> None:
        run.state.update({pedal: False, latch: set(), running: "off"})

    def press(run: Run, args: Args) -> Any:
        run.state[pedal] = True
        return {pedal: "down"}

    def release(run: Run, args: Args) -> Any:
        run.state[pedal] = False
        return {pedal: "up"}

    def shut(run: Run, args: Args) -> Any:
        run.state[latch] |= set(args[latch])
        return {open_: len(latches) - len(run.state[latch])}

    def loose(run: Run, args: Args) -> Any:
        run.state[latch] -= set(args[latch])
        return {open_: len(latches) - len(run.state[latch])}

    def engage(run: Run, args: Args) -> Any:
        if len(run.state[latch]) < len(latches):
            raise Refused("all latches must be shut")
        if not run.state[pedal]:
            raise Refused("hold the pedal down first")
        run.state[running] = args["mode"]
        return {running: args["mode"]}

    def show(run: Run, args: Args) -> Any:
        return {running: run.state[running], pedal: "down" if run.state[pedal] else "up"}

    def some(run: Run, r: random.Random) -> Args:
        return {latch: list(latches) if r.random() < 0.7 else r.sample(latches, r.randrange(1, 3))}

    tools = [Tool(names.tool(), press, lambda run, r: {"force": r.randrange(1, 9)}, 1.5),
             Tool(names.tool(), release, lambda run, r: {}, 0.7), Tool(names.tool(), shut, some, 1.5),
             Tool(names.tool(), loose, some, 0.5),
             Tool(names.tool(), engage, lambda run, r: {"mode": r.choice(["on", "fast"])}, 2.5),
             Tool(names.tool(), show, lambda run, r: {})]  # fmt: skip
    return Part("interlock", tools, start)


def account(rng: random.Random, names: Names, manners: Manners) -> Part:
    """A balance that goes down by quantity times price; numbers that count up; a list that grows."""
    total, qty, price, code, orders = (names.word() for _ in range(5))
    goods = {word: round(rng.uniform(2, 80), 2) for word in rng.sample(WORDS, 6)}
    first = rng.randrange(100, 9000)

    def start(run: Run) -> None:
        run.state.update({total: run.rng.randrange(200, 3000), orders: []})

    def balance(run: Run, args: Args) -> Any:
        run.need(total)
        run.show(total)
        return {total: run.state[total]}

    def add(run: Run, args: Args) -> Any:
        if args[total] <= 0:
            raise Refused("the sum must be positive")
        run.need(total)
        run.state[total] = round(run.state[total] + args[total], 2)
        run.show(total)
        return {"status": "added", f"new_{total}": run.state[total]}

    def quote(run: Run, args: Args) -> Any:
        if args[code] not in goods:
            raise Refused(f"{args[code]} is unknown")
        return {code: args[code], price: goods[args[code]]}

    def buy(run: Run, args: Args) -> Any:
        if args[code] not in goods:
            raise Refused(f"{args[code]} is unknown")
        run.need(total)
        cost = round(args[qty] * goods[args[code]], 2)
        if cost > run.state[total]:
            raise Refused(f"needs {cost}, has {run.state[total]}")
        run.state[total] = round(run.state[total] - cost, 2)
        run.state[orders].append(first + len(run.state[orders]))
        run.show(total)
        return {"number": run.state[orders][-1], code: args[code], qty: args[qty], f"{total}_left": run.state[total]}

    def listed(run: Run, args: Args) -> Any:
        return {orders: list(run.state[orders])}

    def good(r: random.Random) -> str:
        return r.choice(list(goods)) if r.random() < 0.9 else "x" + r.choice(WORDS)

    tools = [Tool(names.tool(), balance, lambda run, r: {}), Tool(names.tool(), listed, lambda run, r: {}, 0.6),
             Tool(names.tool(), add, lambda run, r: {total: r.randrange(-50, 400)}, 0.8),
             Tool(names.tool(), quote, lambda run, r: {code: good(r)}),
             Tool(names.tool(), buy, lambda run, r: {code: good(r), qty: r.randrange(1, 30)}, 2.0)]  # fmt: skip
    return Part("account", tools, start)


def members(rng: random.Random, names: Names, manners: Manners) -> Part:
    """A list of the session that grows and shrinks, its length, and whether something is in it."""
    items, item, count, inside = (names.word() for _ in range(4))
    filled = rng.random() < 0.5

    def start(run: Run) -> None:
        run.state[items] = run.rng.sample(WORDS, 3) if filled else []
        if not filled:
            run.show(items)

    def show(run: Run, args: Args) -> Any:
        run.need(items)
        run.show(items)
        return {items: list(run.state[items])}

    def add(run: Run, args: Args) -> Any:
        run.need(items)
        if args[item] in run.state[items]:
            raise Refused(f"{args[item]} is listed already")
        run.state[items] = [*run.state[items], args[item]]
        return manners.done(f"{args[item]} was added")

    def remove(run: Run, args: Args) -> Any:
        run.need(items)
        if args[item] not in run.state[items]:
            raise Refused(f"{args[item]} is not listed")
        run.state[items] = [w for w in run.state[items] if w != args[item]]
        return manners.done(f"{args[item]} was removed")

    def size(run: Run, args: Args) -> Any:
        run.need(items)
        return {count: len(run.state[items])}

    def has(run: Run, args: Args) -> Any:
        run.need(items)
        return {inside: args[item] in run.state[items]}

    def word(run: Run, r: random.Random) -> Args:
        old = run.state[items]
        return {item: r.choice(old) if old and r.random() < 0.4 else r.choice(WORDS)}

    tools = [Tool(names.tool(), show, lambda run, r: {}, 1.5), Tool(names.tool(), add, word, 1.5),
             Tool(names.tool(), remove, word), Tool(names.tool(), size, lambda run, r: {}),
             Tool(names.tool(), has, word)]  # fmt: skip
    return Part("members", tools, start)


def nested(rng: random.Random, names: Names, manners: Manners) -> Part:
    """Settings in a map of maps, read whole and one by one, and written one by one."""
    group, key, value, all_ = (names.word() for _ in range(4))
    groups, keys = rng.sample(WORDS, 3), rng.sample(WORDS, 3)

    def start(run: Run) -> None:
        run.state[all_] = {g: {k: run.rng.randrange(100) for k in keys} for g in groups}

    def whole(run: Run, args: Args) -> Any:
        for g in groups:
            for k in keys:
                run.need(all_, g, k)
                run.show(all_, g, k)
        return {all_: {g: dict(of) for g, of in run.state[all_].items()}}

    def get(run: Run, args: Args) -> Any:
        if args[group] not in groups or args[key] not in keys:
            raise Refused(f"nothing at {args[group]}.{args[key]}")
        run.need(all_, args[group], args[key])
        run.show(all_, args[group], args[key])
        return {value: run.state[all_][args[group]][args[key]]}

    def put(run: Run, args: Args) -> Any:
        if args[group] not in groups or args[key] not in keys:
            raise Refused(f"nothing at {args[group]}.{args[key]}")
        run.state[all_][args[group]][args[key]] = args[value]
        run.show(all_, args[group], args[key])
        return manners.done("set")

    def where(r: random.Random) -> Args:
        return {group: r.choice(groups) if r.random() < 0.93 else "no", key: r.choice(keys)}

    tools = [Tool(names.tool(), whole, lambda run, r: {}), Tool(names.tool(), get, lambda run, r: where(r), 2.0),
             Tool(names.tool(), put, lambda run, r: {**where(r), value: r.randrange(100)})]  # fmt: skip
    return Part("nested", tools, start)


def query(rng: random.Random, names: Names, manners: Manners) -> Part:
    """Records that are made in the session, and lists of them by filter, order, page and limit."""
    records, label, state, size, number = (names.word() for _ in range(5))
    states = rng.sample(WORDS, 3)
    lower, newest = rng.random() < 0.5, rng.random() < 0.5

    def make(run: Run, args: Args) -> Any:
        record = {number: len(run.state[records]) + 1, label: args[label], state: states[0], size: args[size]}
        run.state[records].append(record)
        return dict(record)

    def find(run: Run, args: Args) -> dict[str, Any]:
        if not 1 <= args[number] <= len(run.state[records]):
            raise Refused(f"there is no {args[number]}")
        return run.state[records][args[number] - 1]

    def get(run: Run, args: Args) -> Any:
        return dict(find(run, args))

    def move(run: Run, args: Args) -> Any:
        record = find(run, args)
        if record[state] == args[state]:
            raise Refused(f"{args[number]} is {args[state]} already")
        record[state] = args[state]
        return manners.done(f"{args[number]} is {args[state]}")

    def by_state(run: Run, args: Args) -> Any:
        return {records: [dict(r) for r in run.state[records] if r[state] == args[state]]}

    def by_word(run: Run, args: Args) -> Any:
        return {"found": [r[number] for r in run.state[records] if args["word"] in r[label]]}

    def by_size(run: Run, args: Args) -> Any:
        found = [r for r in run.state[records] if (r[size] <= args["limit"] if lower else r[size] >= args["limit"])]
        return {"found": [{number: r[number], size: r[size]} for r in found], "total": len(found)}

    def top(run: Run, args: Args) -> Any:
        order = sorted(run.state[records], key=lambda r: r[size], reverse=newest)
        return {records: [dict(r) for r in order[: args["n"]]]}

    def page(run: Run, args: Args) -> Any:
        start = (args["page"] - 1) * 2
        return {records: [r[number] for r in run.state[records][start : start + 2]], "page": args["page"]}

    def total(run: Run, args: Args) -> Any:
        return {"count": len(run.state[records]), "sum": sum(r[size] for r in run.state[records])}

    def which(run: Run, r: random.Random) -> int:
        return r.randrange(1, len(run.state[records]) + 2)

    tools = [
        Tool(names.tool(), make, lambda run, r: {label: " ".join(r.sample(WORDS, 2)), size: r.randrange(1, 90)}, 4.0),
        Tool(names.tool(), get, lambda run, r: {number: which(run, r)}),
        Tool(names.tool(), move, lambda run, r: {number: which(run, r), state: r.choice(states)}, 1.5),
        *rng.sample([
            Tool(names.tool(), by_state, lambda run, r: {state: r.choice(states)}),
            Tool(names.tool(), by_word, lambda run, r: {"word": r.choice(WORDS)}),
            Tool(names.tool(), by_size, lambda run, r: {"limit": r.randrange(10, 80)}),
            Tool(names.tool(), top, lambda run, r: {"n": r.randrange(1, 4)}),
            Tool(names.tool(), page, lambda run, r: {"page": r.randrange(1, 4)}),
            Tool(names.tool(), total, lambda run, r: {}),
        ], 3),
    ]  # fmt: skip
    return Part("query", tools, lambda run: run.state.__setitem__(records, []))


def polling(rng: random.Random, names: Names, manners: Manners) -> Part:
    """Jobs that finish at the n-th look; a change that reads show late."""
    job, state, after, secret = names.word(), names.word(), rng.randrange(2, 5), names.word()

    def begin(run: Run, args: Args) -> Any:
        made = f"J{run.rng.randrange(10000, 99999)}"
        run.state[job][made] = [0, args["what"]]
        run.volatile = True
        return {job: made, state: "queued"}

    def look(run: Run, args: Args) -> Any:
        found = run.state[job].get(args[job])
        if found is None:
            raise Refused(f"no job {args[job]}")
        found[0] += 1
        if found[0] < after:
            return {job: args[job], state: "running"}
        return {job: args[job], state: "ready", "what": found[1]}

    def fetch(run: Run, args: Args) -> Any:
        found = run.state[job].get(args[job])
        if found is None:
            raise Refused(f"no job {args[job]}")
        if found[0] < after:
            raise Refused(f"job {args[job]} is not ready")
        return {secret: f"{found[1]}/{args[job]}"}

    def which(run: Run, r: random.Random) -> Args:
        jobs = list(run.state[job])
        return {job: r.choice(jobs[-2:]) if jobs and r.random() < 0.93 else "J1"}

    tools = [Tool(names.tool(), begin, lambda run, r: {"what": r.choice(WORDS)}, 0.6),
             Tool(names.tool(), look, which, 3.0), Tool(names.tool(), fetch, which, 1.5)]  # fmt: skip
    return Part("polling", tools, lambda run: run.state.__setitem__(job, {}))


def versions(rng: random.Random, names: Names, manners: Manners) -> Part:
    """Records with a version that writes must name; others change them now and then; a check comes first."""
    key, version, value, checked = (names.word() for _ in range(4))

    def start(run: Run) -> None:
        run.state[key] = {f"{key[:2]}-{run.rng.randrange(100, 999)}": [run.rng.randrange(1, 9), run.rng.choice(WORDS)]
                          for _ in range(2)}  # fmt: skip
        run.state[checked] = set()

    def find(run: Run, args: Args) -> list[Any]:
        found = run.state[key].get(args[key])
        if found is None:
            raise Refused(f"{args[key]} was not found")
        return found

    def get(run: Run, args: Args) -> Any:
        found = find(run, args)
        if run.rng.random() < 0.1:
            found[0], found[1] = found[0] + 1, run.rng.choice(WORDS)
            run.known.discard((key, args[key]))
        run.need(key, args[key])
        run.show(key, args[key])
        return {key: args[key], version: found[0], value: found[1]}

    def check(run: Run, args: Args) -> Any:
        find(run, args)
        run.state[checked].add(args[key])
        return manners.done("checked")

    def put(run: Run, args: Args) -> Any:
        found = find(run, args)
        if args[key] not in run.state[checked]:
            raise Refused(f"check {args[key]} before a change (403)")
        run.need(key, args[key])
        if found[0] != args[version]:
            raise Refused(f"version is {found[0]} (412)")
        found[0], found[1] = found[0] + 1, args[value]
        return manners.done("saved", **{version: found[0]})

    def which(run: Run, r: random.Random) -> Args:
        return {key: r.choice(list(run.state[key])) if r.random() < 0.93 else f"{key}{r.randrange(99)}"}

    def change(run: Run, r: random.Random) -> Args:
        args = which(run, r)
        now = run.state[key].get(args[key], [3])[0]
        return {**args, version: now if r.random() < 0.8 else r.randrange(1, 9), value: r.choice(WORDS)}

    tools = [Tool(names.tool(), get, which, 1.5), Tool(names.tool(), check, which),
             Tool(names.tool(), put, change, 2.0)]  # fmt: skip
    return Part("versions", tools, start)


def minted(rng: random.Random, names: Names, manners: Manners) -> Part:
    """A token that is minted and must be shown; clocks; answers that differ each time."""
    token, used, left = names.word(), names.word(), names.word()
    most = rng.randrange(2, 5)

    def issue(run: Run, args: Args) -> Any:
        run.state[token] = f"{run.rng.randrange(16**8):08x}"
        run.state[left], run.volatile = most, True
        return {token: run.state[token], "kind": args["kind"]}

    def use(run: Run, args: Args) -> Any:
        if args[token] != run.state[token]:
            raise Refused("the token is not valid")
        if run.state[left] == 0:
            raise Refused("the token is used up")
        run.state[left] -= 1
        return {used: args["for"], left: run.state[left]}

    def clock(run: Run, args: Args) -> Any:
        run.volatile = True
        return {"now": f"2026-03-{run.rng.randrange(10, 29)}T{run.rng.randrange(10, 24)}:{run.rng.randrange(10, 60)}"}

    def with_token(run: Run, r: random.Random) -> Args:
        known = run.state[token] if run.state[token] and r.random() < 0.85 else f"{r.randrange(16**8):08x}"
        return {token: known, "for": r.choice(WORDS)}

    tools = [Tool(names.tool(), issue, lambda run, r: {"kind": r.choice(WORDS[:3])}),
             Tool(names.tool(), use, with_token, 3.0), Tool(names.tool(), clock, lambda run, r: {}, 0.3)]  # fmt: skip
    return Part("minted", tools, lambda run: run.state.update({token: None, left: 0}))
