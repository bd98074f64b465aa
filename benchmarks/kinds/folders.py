"""A kind of tools that move in a tree: names are looked up where the agent is, and `..` leads back."""

from __future__ import annotations

import random
from typing import Any

from benchmarks.stateful import WORDS, Manners, Names, Part, Refused, Run, Tool

Args = dict[str, Any]
Folder = dict[str, Any]
"""Names to texts (files) or to folders."""


def folders(rng: random.Random, names: Names, manners: Manners) -> Part:
    """A tree of folders with a working directory that moves by a name or by `..`."""
    here, name, text, items, tree = (names.word() for _ in range(5))
    says = rng.choice(["path", "name", "done"])
    root = rng.choice(WORDS)

    def start(run: Run) -> None:
        words = run.rng.sample(WORDS, 8)
        inner: Folder = {words[0]: _text(run.rng), words[1]: {words[2]: _text(run.rng)}}
        run.state[tree] = {words[3]: inner, words[4]: {words[5]: _text(run.rng)}, words[6]: _text(run.rng)}
        run.state[here] = ()

    def at(run: Run) -> Folder:
        folder: Folder = run.state[tree]
        for part in run.state[here]:
            folder = folder[part]
        return folder

    def find(run: Run, word: str) -> Any:
        if (items, run.state[here], word) not in run.known:
            run.need(items, run.state[here])
        if word not in at(run):
            raise Refused(f"{word}: there is no such thing here")
        run.need("kind", run.state[here], word)
        run.show("kind", run.state[here], word)
        return at(run)[word]

    def path(run: Run) -> str:
        return "/" + "/".join((root, *run.state[here]))

    def go(run: Run, args: Args) -> Any:
        if args[name] == "..":
            if not run.state[here]:
                raise Refused("this is the top already")
            run.state[here] = run.state[here][:-1]
        elif not isinstance(find(run, args[name]), dict):
            raise Refused(f"{args[name]} is no folder")
        else:
            run.state[here] = (*run.state[here], args[name])
        shown = {"path": path(run), "name": path(run).rpartition("/")[2]}.get(says)
        return {here: shown} if shown else manners.done("moved")

    def where(run: Run, args: Args) -> Any:
        return {"where": path(run)}

    def view(run: Run, args: Args) -> Any:
        run.need(items, run.state[here])
        run.show(items, run.state[here])
        for word in at(run):
            run.show(items, run.state[here], word)
        return {items: list(at(run))}

    def read(run: Run, args: Args) -> Any:
        found = find(run, args[name])
        if isinstance(found, dict):
            raise Refused(f"{args[name]} is a folder")
        run.need(text, run.state[here], args[name])
        run.show(text, run.state[here], args[name])
        return {text: found}

    def make(run: Run, args: Args) -> Any:
        run.need(items, run.state[here])
        if args[name] in at(run):
            raise Refused(f"{args[name]} exists")
        at(run)[args[name]] = args[text] if text in args else {}
        for what in (items, text, "kind"):
            run.show(what, run.state[here], args[name])
        if text not in args:
            run.show(items, (*run.state[here], args[name]))
        return manners.done(f"made {args[name]}")

    def write(run: Run, args: Args) -> Any:
        found = find(run, args[name])
        if isinstance(found, dict):
            raise Refused(f"{args[name]} is a folder")
        at(run)[args[name]] = args[text]
        run.show(text, run.state[here], args[name])
        return manners.done("written")

    def drop(run: Run, args: Args) -> Any:
        find(run, args[name])
        del at(run)[args[name]]
        gone = (*run.state[here], args[name])
        run.known = {c for c in run.known if len(c) < 2 or not isinstance(c[1], tuple) or c[1][:-1] != gone}
        return manners.done(f"'{args[name]}' removed")

    def some(run: Run, r: random.Random, folder: bool) -> str:
        fitting = [w for w, v in at(run).items() if isinstance(v, dict) == folder]
        return r.choice(fitting) if fitting and r.random() < 0.85 else r.choice(list(at(run)) or WORDS)

    def step(run: Run, r: random.Random) -> Args:
        return {name: ".." if r.random() < 0.4 else some(run, r, True)}

    tools = [Tool(names.tool(), go, step, 2.5), Tool(names.tool(), where, lambda run, r: {}),
             Tool(names.tool(), view, lambda run, r: {}, 2.5),
             Tool(names.tool(), read, lambda run, r: {name: some(run, r, False)}, 1.5),
             Tool(names.tool(), make, lambda run, r: {name: r.choice(WORDS), text: _text(r)}),
             Tool(names.tool(), make, lambda run, r: {name: r.choice(WORDS)}, 0.7),
             Tool(names.tool(), write, lambda run, r: {name: some(run, r, False), text: _text(r)}, 0.7),
             Tool(names.tool(), drop, lambda run, r: {name: some(run, r, False)}, 0.5)]  # fmt: skip
    return Part("folders", tools, start)


def _text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=3))
