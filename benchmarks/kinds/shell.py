"""A kind of tools that work on a tree of files: names are taken in the current folder, answers are texts and lists."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.stateful import WORDS, Manners, Names, Part, Refused, Run, Tool

Args = dict[str, Any]
ENDINGS = ("txt", "md", "csv")


@dataclass(eq=False)
class Node:
    """A folder, or a file with a text. What a conversation knows of it goes with it when it is moved."""

    text: str | None = None
    inside: dict[str, Node] = field(default_factory=dict)

    def copy(self) -> Node:
        return Node(self.text, {name: node.copy() for name, node in self.inside.items()})

    def paths(self, at: str) -> Iterator[tuple[str, Node]]:
        for name, node in self.inside.items():
            yield f"{at}/{name}", node
            yield from node.paths(f"{at}/{name}")


def lines(rng: random.Random) -> str:
    return "\n".join(" ".join(rng.choices(WORDS, k=rng.randrange(2, 5))) for _ in range(rng.randrange(1, 4)))


def file_name(rng: random.Random) -> str:
    return f"{rng.choice(WORDS)}.{rng.choice(ENDINGS)}"


def shell(rng: random.Random, names: Names, manners: Manners) -> Part:
    """Folders and files with a current folder: list, enter, read, search, write, move, copy and remove."""
    name, to, word, out, here = (names.word() for _ in range(5))
    whole_path = rng.random() < 0.5
    root = rng.choice([None, rng.choice(WORDS)])  # the same for everybody, or each conversation's own

    def start(run: Run) -> None:
        def folder(depth: int) -> Node:
            files = {file_name(run.rng): Node(lines(run.rng)) for _ in range(run.rng.randrange(1, 4))}
            folders = {w: folder(depth - 1) for w in run.rng.sample(WORDS, 2)} if depth else {}
            return Node(None, {**files, **folders})

        run.state[here] = [folder(2)]
        run.state[to] = [root or run.rng.choice(WORDS)]
        if root:
            run.show("root")

    def at(run: Run) -> Node:
        return run.state[here][-1]

    def path(run: Run) -> str:
        return "/" + "/".join(run.state[to])

    def has(run: Run, folder: Node, which: str) -> bool:
        """Whether a folder has a name: who has seen its list knows that, and who has been told of the name."""
        if ("name", folder, which) not in run.known:
            run.need("list", folder)
        return which in folder.inside

    def a_file(run: Run, args: Args) -> Node:
        if not has(run, at(run), args[name]):
            raise Refused(f"{args[name]}: no such file")
        if at(run).inside[args[name]].text is None:
            raise Refused(f"{args[name]} is a folder")
        return at(run).inside[args[name]]

    def text_of(run: Run, args: Args) -> str:
        node = a_file(run, args)
        run.need("text", node)
        assert node.text is not None
        return node.text

    def know(run: Run, folder: Node, which: str) -> None:
        run.show("name", folder, which)

    def view(run: Run, args: Args) -> Any:
        run.need("list", at(run))
        run.show("list", at(run))
        return {out: list(at(run).inside)}

    def enter(run: Run, args: Args) -> Any:
        if args[name] == "..":
            if len(run.state[here]) == 1:
                raise Refused("there is nothing above")
            run.state[here], run.state[to] = run.state[here][:-1], run.state[to][:-1]
        else:
            if not has(run, at(run), args[name]):
                raise Refused(f"cannot enter {args[name]}: not found")
            if at(run).inside[args[name]].text is not None:
                raise Refused(f"cannot enter {args[name]}: it is a file")
            run.state[here] = [*run.state[here], at(run).inside[args[name]]]
            run.state[to] = [*run.state[to], args[name]]
        if whole_path or len(run.state[to]) == 1:
            run.need("root")
            run.show("root")
        return {here: path(run) if whole_path else run.state[to][-1]}

    def where(run: Run, args: Args) -> Any:
        run.need("root")
        run.show("root")
        return {"place": path(run)}

    def read(run: Run, args: Args) -> Any:
        text = text_of(run, args)
        run.show("text", at(run).inside[args[name]])
        return {word: text}

    def search(run: Run, args: Args) -> Any:
        return {"lines": [line for line in text_of(run, args).split("\n") if args[word] in line]}

    def write(run: Run, args: Args) -> Any:
        if has(run, at(run), args[name]):
            a_file(run, args).text = args[word]
        else:
            at(run).inside[args[name]] = Node(args[word])
        know(run, at(run), args[name])
        run.show("text", at(run).inside[args[name]])
        return manners.done(f"wrote {args[name]}")

    def make(run: Run, args: Args) -> Any:
        if has(run, at(run), args[name]):
            raise Refused(f"cannot make {args[name]}: it exists")
        made = at(run).inside[args[name]] = Node()
        know(run, at(run), args[name])
        run.show("list", made)
        return manners.done(f"made {args[name]}")

    def touch(run: Run, args: Args) -> Any:
        if has(run, at(run), args[name]):
            raise Refused(f"{args[name]} is there already")
        made = at(run).inside[args[name]] = Node("")
        know(run, at(run), args[name])
        run.show("text", made)
        return manners.done(f"{args[name]} is there now")

    def remove(run: Run, args: Args) -> Any:
        if not has(run, at(run), args[name]):
            raise Refused(f"cannot remove {args[name]}: no such thing")
        del at(run).inside[args[name]]
        know(run, at(run), args[name])
        return {"result": f"'{args[name]}' removed"}

    def place(run: Run, args: Args, copies: bool) -> Any:
        """Into the folder of that name if there is one, else under the new name."""
        if not has(run, at(run), args[name]):
            raise Refused(f"cannot find {args[name]}")
        node, folder, new = at(run).inside[args[name]], at(run), args[to]
        if has(run, folder, new):
            if folder.inside[new].text is not None:
                raise Refused(f"{new} is in the way")
            if folder.inside[new] is node:
                raise Refused(f"cannot put {new} into itself")
            folder, new = folder.inside[new], args[name]
            if has(run, folder, new):
                raise Refused(f"{args[to]} has {new} already")
        placed = node.copy() if copies else node
        folder.inside[new] = placed
        know(run, folder, new)
        if copies and ("text", node) in run.known:
            run.show("text", placed)
        if copies and ("list", node) in run.known:
            run.show("list", placed)
        if not copies:
            del at(run).inside[args[name]]
            know(run, at(run), args[name])
        return {"result": f"'{args[name]}' {'copied' if copies else 'moved'} to '{args[to]}'"}

    def count(run: Run, args: Args) -> Any:
        text = text_of(run, args)
        sizes = {"l": text.count("\n") + 1, "w": len(text.split()), "c": len(text)}
        if args["mode"] not in sizes:
            raise Refused(f"mode {args['mode']} is not known")
        return {"count": sizes[args["mode"]], "of": {"l": "lines", "w": "words", "c": "characters"}[args["mode"]]}

    def order(run: Run, args: Args) -> Any:
        return {"sorted": "\n".join(sorted(text_of(run, args).split("\n")))}

    def last(run: Run, args: Args) -> Any:
        return {"end": "\n".join(text_of(run, args).split("\n")[-args["n"] :])}

    def find(run: Run, args: Args) -> Any:
        for _, node in [("", at(run)), *at(run).paths(".")]:
            if node.text is None:
                run.need("list", node)
        return {"found": [p for p, _ in at(run).paths(".") if args[word] in p.rpartition("/")[2]]}

    def some(run: Run, r: random.Random, folder: bool) -> str:
        fitting = [w for w, node in at(run).inside.items() if (node.text is None) == folder]
        if fitting and r.random() < 0.88:
            return r.choice(fitting)
        return r.choice(list(at(run).inside) or WORDS) if r.random() < 0.5 else file_name(r)

    def step(run: Run, r: random.Random) -> Args:
        return {name: ".." if r.random() < 0.3 else some(run, r, True)}

    def target(run: Run, r: random.Random) -> Args:
        moved = some(run, r, r.random() < 0.15)
        node = at(run).inside.get(moved)
        fresh = file_name(r) if node is None or node.text is not None else r.choice(WORDS)
        return {name: moved, to: some(run, r, True) if r.random() < 0.6 else fresh}

    def file_and(extra: Callable[[random.Random], Args]) -> Callable[[Run, random.Random], Args]:
        return lambda run, r: {name: some(run, r, False), **extra(r)}

    def written(run: Run, r: random.Random) -> Args:
        return {name: some(run, r, False) if r.random() < 0.4 else file_name(r), word: lines(r)}

    core = [Tool(names.tool(), view, lambda run, r: {}, 2.5), Tool(names.tool(), enter, step, 2.5),
            Tool(names.tool(), where, lambda run, r: {}, 0.7),
            Tool(names.tool(), read, file_and(lambda r: {}), 1.5)]  # fmt: skip
    more = [Tool(names.tool(), search, file_and(lambda r: {word: r.choice(WORDS)})),
            Tool(names.tool(), write, written), Tool(names.tool(), touch, lambda run, r: {name: file_name(r)}),
            Tool(names.tool(), make, lambda run, r: {name: r.choice(WORDS)}),
            Tool(names.tool(), remove, lambda run, r: {name: some(run, r, r.random() < 0.2)}, 0.7),
            Tool(names.tool(), lambda run, args: place(run, args, False), target),
            Tool(names.tool(), lambda run, args: place(run, args, True), target),
            Tool(names.tool(), count, file_and(lambda r: {"mode": r.choice("lwclwcx")})),
            Tool(names.tool(), order, file_and(lambda r: {}), 0.7),
            Tool(names.tool(), last, file_and(lambda r: {"n": r.randrange(1, 3)}), 0.7),
            Tool(names.tool(), find, lambda run, r: {word: r.choice(WORDS)[:3]}, 0.7)]  # fmt: skip
    return Part("shell", [*core, *rng.sample(more, 7)], start)
