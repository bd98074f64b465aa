"""Kinds of tools as offices have them: a box of messages, and a queue of tickets."""

from __future__ import annotations

import random
from typing import Any

from benchmarks.stateful import WORDS, Manners, Names, Part, Refused, Run, Tool

Args = dict[str, Any]


def phrase(rng: random.Random, k: int = 3) -> str:
    return " ".join(rng.choices(WORDS, k=k))


def mailbox(rng: random.Random, names: Names, manners: Manners) -> Part:
    """People who send each other messages: who is in sees what he sent, by person, and how many."""
    user, text, number, sent = (names.word() for _ in range(4))
    people = {w.title(): f"{names.word().upper()}{k:03d}" for k, w in enumerate(rng.sample(WORDS, 5), 1)}
    first = rng.randrange(1, 9000)

    def start(run: Run) -> None:
        run.state.update({user: None, sent: [], number: first, "people": dict(people)})

    def me(run: Run) -> str:
        if run.state[user] is None:
            raise Refused("nobody is logged in")
        return run.state[user]

    def ids(run: Run) -> list[str]:
        return list(run.state["people"].values())

    def enter(run: Run, args: Args) -> Any:
        if args[user] not in ids(run):
            raise Refused(f"user {args[user]} does not exist")
        run.state[user] = args[user]
        return {"status": True, "message": f"{args[user]} is logged in"}

    def status(run: Run, args: Args) -> Any:
        return {"status": run.state[user] is not None}

    def look_up(run: Run, args: Args) -> Any:
        if args["name"] not in run.state["people"]:
            raise Refused(f"nobody is called {args['name']}")
        return {user: run.state["people"][args["name"]]}

    def everybody(run: Run, args: Args) -> Any:
        return {"people": list(run.state["people"])}

    def add(run: Run, args: Args) -> Any:
        if args["name"] in run.state["people"]:
            raise Refused(f"{args['name']} is there already")
        made = f"{user.upper()}{len(run.state['people']) + 1:03d}"
        run.state["people"][args["name"]] = made
        return {"added": True, user: made, "message": f"{args['name']} was added"}

    def send(run: Run, args: Args) -> Any:
        mine = me(run)
        if args["to"] not in ids(run):
            raise Refused(f"receiver {args['to']} does not exist")
        made = run.state[number]
        run.state[number] += 1
        run.state[sent].append({"from": mine, "to": args["to"], "id": made, text: args[text]})
        return {"sent": True, "id": made, "message": f"message {made} was sent to {args['to']}"}

    def outbox(run: Run, args: Args) -> Any:
        mine = me(run)
        found: dict[str, list[str]] = {}
        for one in run.state[sent]:
            if one["from"] == mine:
                found.setdefault(one["to"], []).append(one[text])
        return {"messages": found}

    def inbox(run: Run, args: Args) -> Any:
        mine = me(run)
        return {
            "inbox": [{"id": o["id"], "from": o["from"], text: o[text]} for o in run.state[sent] if o["to"] == mine]
        }

    def search(run: Run, args: Args) -> Any:
        mine = me(run)
        return {"results": [{"to": o["to"], text: o[text]} for o in run.state[sent]
                            if o["from"] == mine and args["word"] in o[text]]}  # fmt: skip

    def drop(run: Run, args: Args) -> Any:
        me(run)
        if args["id"] not in [o["id"] for o in run.state[sent]]:
            raise Refused(f"there is no message {args['id']}")
        run.state[sent] = [o for o in run.state[sent] if o["id"] != args["id"]]
        return {"deleted": True, "id": args["id"]}

    def stats(run: Run, args: Args) -> Any:
        mine = me(run)
        own = [o for o in run.state[sent] if o["from"] == mine]
        return {"sent": len(own), "received": sum(o["to"] == mine for o in run.state[sent]),
                "contacts": len({o["to"] for o in own})}  # fmt: skip

    def which(run: Run, r: random.Random) -> int:
        known = [o["id"] for o in run.state[sent]]
        return r.choice(known) if known and r.random() < 0.85 else r.randrange(9000, 9999)

    def who(run: Run, r: random.Random) -> str:
        return r.choice(ids(run)) if r.random() < 0.92 else f"{user.upper()}{r.randrange(50, 99)}"

    def call(run: Run, r: random.Random) -> Args:
        return {"name": r.choice(list(people) if r.random() < 0.9 else WORDS)}

    tools = [Tool(names.tool(), enter, lambda run, r: {user: who(run, r)}, 1.5),
             Tool(names.tool(), status, lambda run, r: {}, 0.4), Tool(names.tool(), look_up, call),
             Tool(names.tool(), everybody, lambda run, r: {}, 0.5),
             Tool(names.tool(), add, lambda run, r: {"name": r.choice(WORDS).title()}, 0.7),
             Tool(names.tool(), send, lambda run, r: {"to": who(run, r), text: phrase(r)}, 3.0),
             Tool(names.tool(), outbox, lambda run, r: {}), Tool(names.tool(), inbox, lambda run, r: {}),
             Tool(names.tool(), search, lambda run, r: {"word": r.choice(WORDS)}),
             Tool(names.tool(), drop, lambda run, r: {"id": which(run, r)}, 0.8),
             Tool(names.tool(), stats, lambda run, r: {})]  # fmt: skip
    return Part("mailbox", tools, start)


def tickets(rng: random.Random, names: Names, manners: Manners) -> Part:
    """Tickets with numbers counted up, which who is logged in opens, changes, resolves and closes."""
    title, level, status, by, note = (names.word() for _ in range(5))
    first = rng.choice([0, 1, rng.randrange(100, 5000)])
    seeded = rng.random() < 0.5

    def start(run: Run) -> None:
        run.state.update({"in": None, "all": [], "count": first})
        for _ in range(2 if seeded else 0):
            run.state["all"].append(make(run, run.rng.choice(WORDS), phrase(run.rng), run.rng.randrange(1, 6)))

    def make(run: Run, who: str, said: str, how: int) -> dict[str, Any]:
        made = {"id": run.state["count"], title: said, level: how, status: "Open", by: who, note: ""}
        run.state["count"] += 1
        return made

    def enter(run: Run, args: Args) -> Any:
        if run.state["in"]:
            raise Refused(f"{run.state['in']} is logged in already")
        run.state["in"] = args["user"]
        return {"success": True}

    def leave(run: Run, args: Args) -> Any:
        if not run.state["in"]:
            raise Refused("nobody is logged in")
        run.state["in"] = None
        return {"success": True}

    def status_of(run: Run, args: Args) -> Any:
        return {"user": run.state["in"]}

    def create(run: Run, args: Args) -> Any:
        if not run.state["in"]:
            raise Refused("log in to open tickets")
        if not 1 <= args[level] <= 5:
            raise Refused(f"{level} must be from 1 to 5")
        made = make(run, run.state["in"], args[title], args[level])
        run.state["all"].append(made)
        run.show("ticket", made["id"])
        return dict(made)

    def find(run: Run, args: Args) -> dict[str, Any]:
        found = [t for t in run.state["all"] if t["id"] == args["id"]]
        if not found:
            raise Refused(f"ticket {args['id']} was not found")
        return found[0]

    def get(run: Run, args: Args) -> Any:
        found = find(run, args)
        run.need("ticket", args["id"])
        run.show("ticket", args["id"])
        return dict(found)

    def find_signed_in(run: Run, args: Args) -> dict[str, Any]:
        if not run.state["in"]:
            raise Refused("log in first")
        return find(run, args)

    def close(run: Run, args: Args) -> Any:
        found = find_signed_in(run, args)
        if found[status] == "Closed":
            raise Refused(f"ticket {args['id']} is closed already")
        found[status] = "Closed"
        return {"status": f"ticket {args['id']} was closed"}

    def resolve(run: Run, args: Args) -> Any:
        found = find_signed_in(run, args)
        if found[status] == "Resolved":
            raise Refused(f"ticket {args['id']} is resolved already")
        found[status], found[note] = "Resolved", args[note]
        return {"status": f"ticket {args['id']} was resolved"}

    def edit(run: Run, args: Args) -> Any:
        found = find_signed_in(run, args)
        found.update({k: v for k, v in args["changes"].items() if v})
        return {"status": f"ticket {args['id']} was changed"}

    def mine(run: Run, args: Args) -> Any:
        if not run.state["in"]:
            raise Refused("log in first")
        shown = [t for t in run.state["all"] if t[by] == run.state["in"]]
        shown = [t for t in shown if args.get(status) in (None, t[status])]
        for t in run.state["all"]:
            run.need("ticket", t["id"])
        for t in shown:
            run.show("ticket", t["id"])
        return [dict(t) for t in shown]

    def which(run: Run, r: random.Random) -> int:
        known = [t["id"] for t in run.state["all"]]
        return r.choice(known[-4:]) if known and r.random() < 0.9 else run.state["count"] + r.randrange(1, 9)

    def changes(run: Run, r: random.Random) -> Args:
        all_ = {title: phrase(r), level: r.randrange(1, 6)}
        return {"id": which(run, r), "changes": {k: v for k, v in all_.items() if r.random() < 0.7} or all_}

    def listing(run: Run, r: random.Random) -> Args:
        return {status: r.choice(["Open", "Closed", "Resolved"])} if r.random() < 0.6 else {}

    tools = [Tool(names.tool(), enter, lambda run, r: {"user": r.choice(WORDS[:6]), "secret": r.choice(WORDS)}, 1.5),
             Tool(names.tool(), leave, lambda run, r: {}, 0.4), Tool(names.tool(), status_of, lambda run, r: {}, 0.5),
             Tool(names.tool(), create, lambda run, r: {title: phrase(r), level: r.randrange(1, 7)}, 3.0),
             Tool(names.tool(), get, lambda run, r: {"id": which(run, r)}, 1.5),
             Tool(names.tool(), close, lambda run, r: {"id": which(run, r)}),
             Tool(names.tool(), resolve, lambda run, r: {"id": which(run, r), note: phrase(r, 2)}),
             Tool(names.tool(), edit, changes), Tool(names.tool(), mine, listing)]  # fmt: skip
    return Part("tickets", tools, start)
