"""Conversations in procedural worlds: a user with a goal, an agent of a given skill, and the true outcome."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from training.tiny.pretraining.worlds import Answer, Cents, Kind, Record, Tool, World

HELLO = ("", "", "Hi, ", "Hello, ", "Hey, ", "Good day, ", "Hi there. ", "Please help: ")
ASK_READ = ("what is the {f} of {n} {i}?", "can you tell me the {f} of my {n} {i}?", "i need the {f} for {n} {i}.",
            "{n} {i}: which {f} does it have?", "could you check the {f} of {n} {i}")  # fmt: skip
ASK_SET = ("please change the {f} of {n} {i} to {v}.", "set {f} to {v} for {n} {i}, please",
           "i want the {f} of {i} to be {v}", "the {f} of {n} {i} is wrong, it should be {v}.",
           "can you update {n} {i}? the new {f} is {v}")  # fmt: skip
ASK_ACT = ("please {a} {n} {i}.", "can you {a} my {n} {i}?", "i want to {a} {n} {i}", "{n} {i}: {a} it please")
ASK_FIND = (
    "i am looking for a {n} with {f} {v}. what is its {g}?", "find the {n} whose {f} is {v} and tell me the {g}"
)  # fmt: skip
ASK_CHOICE = (
    "what is the {g} of the {d}?", "i am looking for the {d}, what {g} does it have?", "{g} of the {d} please",
    "can you tell me the {g} of {d}?", "how about the {d}? i need its {g}.",
)  # fmt: skip
WHICH = ("Which {n} is it? Please give me the {k}.", "Can you tell me the {k}?", "I need the {k} to look it up.")
GIVE = ("{i}", "it is {i}", "sure, {i}", "the number is {i}.", "{i}, thanks")
TELL = ("The {f} of {n} {i} is {v}.", "{n} {i} has {f} {v}.", "It is {v}.", "I checked: the {f} is {v}.")
DONE_SET = ("Done, the {f} of {n} {i} is now {v}.", "I have set {f} to {v}.", "The {f} of {i} is {v} now.")
DONE_ACT = ("Done: {n} {i} is now {s}.", "I did {a} {i}. Its status is {s}.", "{n} {i} is {s} now.")
SORRY = ("Sorry, I could not do that: {m}.", "That is not possible, {n} {i}: {m}.", "I was not able to. Reason: {m}.")
THANKS = ("thanks", "thank you!", "great, bye", "ok thanks", "perfect.", "that is all, thank you")
MORE = ("also, ", "one more thing: ", "and ", "next, ", "another question: ")
UPSET = ("that does not help.", "no, that is wrong", "are you sure? please try again", "hm, not what i asked")


@dataclass
class Conversation:
    """Messages in the canonical form, the tools, each call's outcome class, and whether all goals were reached."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    outcomes: list[str] = field(default_factory=list)
    success: bool = True


class Talk:
    """Writes one conversation. `skill` is the probability of the right choice at every decision of the agent."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.world = World(rng)
        self.skill = rng.choice((1.0, 0.9, 0.8, 0.5))
        self.out = Conversation([], [t.definition() for t in self.world.tools])
        self._calls = 0

    def run(self) -> Conversation:
        self.say("system", self.rng.choice(("You are a helpful agent.", "Help the user with the tools.", "agent")))
        goals = self.rng.choice((1, 1, 2, 2, 3))
        for number in range(goals):
            opening = self.rng.choice(HELLO) if number == 0 else self.rng.choice(MORE)
            reached = self._goal(opening)
            self.out.success &= reached
            if not reached and self.rng.random() < 0.4:
                self.say("user", self.rng.choice(UPSET))
                self.say("assistant", self.rng.choice(("I am sorry, I cannot help further.", "Sorry about that.")))
                break
        if self.rng.random() < 0.6:
            self.say("user", self.rng.choice(THANKS))
            self.say("assistant", self.rng.choice(("You are welcome.", "Bye!", "Glad to help.", "Have a nice day.")))
        return self.out

    # ----- messages

    def say(self, role: str, text: str) -> None:
        self.out.messages.append({"role": role, "content": text})

    def good(self) -> bool:
        return self.rng.random() < self.skill

    def call(self, tool: Tool, arguments: dict[str, Any]) -> Answer:
        self._calls += 1
        answer = self.world.call(tool.name, arguments)
        calls = [{"id": f"c{self._calls}", "name": tool.name, "arguments": arguments}]
        self.out.messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        result = {"role": "tool", "content": answer.content, "tool_call_id": f"c{self._calls}", "name": tool.name}
        self.out.messages.append({**result, "is_error": answer.outcome != "ok"})
        self.out.outcomes.append(answer.outcome)
        return answer

    def persistent(self, tool: Tool, arguments: dict[str, Any]) -> Answer:
        """Call as a skilled agent does: retry timeouts, wait for rate limits, correct what the error names."""
        answer = self.call(tool, arguments)
        for _ in range(4):
            repaired = self._repair(tool, arguments, answer)
            if repaired is None or not self.good():
                return answer
            arguments = repaired
            answer = self.call(tool, arguments)
        return answer

    def _repair(self, tool: Tool, arguments: dict[str, Any], answer: Answer) -> dict[str, Any] | None:
        if answer.outcome == "timeout":
            return arguments
        if answer.outcome == "rate_limited":
            self.call(next(t for t in self.world.tools if t.sort == "wait"), {"seconds": 2})
            return arguments
        if answer.outcome != "invalid_argument":
            return None
        assert tool.kind is not None
        identity, value = arguments.get(tool.kind.id_key), arguments.get(tool.field)
        if tool.bare_id and isinstance(identity, str) and identity.startswith(tool.kind.prefix):
            return {**arguments, tool.kind.id_key: identity.removeprefix(tool.kind.prefix)}
        if tool.cents and isinstance(value, int | float):
            return {**arguments, tool.field: round(value * 100)}
        return None

    # ----- goals

    def _goal(self, opening: str) -> bool:
        tools = [t for t in self.world.tools if t.sort != "wait"]
        tool = self.rng.choices(tools, [3 if t.sort == "browse" else 1 for t in tools])[0]
        kind = tool.kind
        assert kind is not None
        record = self.rng.choice(list(kind.records.values()))
        goals = {"get": self._read, "search": self._find, "browse": self._choose, "set": self._set, "act": self._act}
        return goals[tool.sort](opening, tool, kind, record)

    def _request(self, opening: str, templates: tuple[str, ...], kind: Kind, identity: str, **words: Any) -> str:
        """Write the user's request; a forgetful user names the id only when asked. Returns the id the agent uses."""
        forgetful = self.rng.random() < 0.25
        said = "" if forgetful else identity
        text = opening + self.rng.choice(templates).format(n=kind.noun, i=said, **words)
        self.say("user", " ".join(text.split()))
        if forgetful:
            self.say("assistant", self.rng.choice(WHICH).format(n=kind.noun, k=kind.id_key.replace("_", " ")))
            self.say("user", self.rng.choice(GIVE).format(i=identity))
        return identity

    def _read(self, opening: str, tool: Tool, kind: Kind, record: Record) -> bool:
        name = self.rng.choice(list(kind.fields))
        identity = self._identity(kind, record)
        self._request(opening, ASK_READ, kind, identity, f=name)
        answer = self.persistent(tool, {kind.id_key: identity})
        if answer.outcome != "ok":
            return self._give_up(kind, identity, answer)
        value = kind.records[identity][name]
        right = self.good()
        shown = value if right else self.rng.choice([v for v in record.values()])
        self.say("assistant", self.rng.choice(TELL).format(f=name, n=kind.noun, i=identity, v=_spoken(shown)))
        return shown == value

    def _identity(self, kind: Kind, record: Record) -> str:
        return kind.draw_id() if self.rng.random() < 0.08 else record[kind.id_key]

    def _set(self, opening: str, tool: Tool, kind: Kind, record: Record) -> bool:
        value, identity = kind.fields[tool.field](), self._identity(kind, record)
        self._request(opening, ASK_SET, kind, identity, f=tool.field, v=_spoken(value))
        self._maybe_look(kind, identity)
        argument: Any = value
        if isinstance(value, Cents):
            argument = int(value) if self.good() else value / 100
        elif tool.cents and self.rng.random() < 0.5:
            argument = round(value * 100)
        answer = self.persistent(tool, {kind.id_key: self._written(tool, kind, identity), tool.field: argument})
        if answer.outcome != "ok":
            return self._give_up(kind, identity, answer)
        self._maybe_look(kind, identity)
        words = {"f": tool.field, "n": kind.noun, "i": identity, "v": _spoken(value)}
        self.say("assistant", self.rng.choice(DONE_SET).format(**words))
        return True

    def _act(self, opening: str, tool: Tool, kind: Kind, record: Record) -> bool:
        verb = tool.name.removesuffix(kind.noun).removesuffix(kind.noun.capitalize()).strip("_")
        identity = self._identity(kind, record)
        self._request(opening, ASK_ACT, kind, identity, a=verb)
        self._maybe_look(kind, identity)
        answer = self.persistent(tool, {kind.id_key: self._written(tool, kind, identity)})
        if answer.outcome != "ok":
            return self._give_up(kind, identity, answer)
        self._maybe_look(kind, identity)
        words = {"a": verb, "n": kind.noun, "i": identity, "s": tool.gives}
        self.say("assistant", self.rng.choice(DONE_ACT).format(**words))
        return True

    def _find(self, opening: str, tool: Tool, kind: Kind, record: Record) -> bool:
        names = list(kind.fields)
        known, wanted = self.rng.choice(names), self.rng.choice(names)
        value = record[known]
        text = self.rng.choice(ASK_FIND).format(n=kind.noun, f=known, v=_spoken(value), g=wanted)
        self.say("user", opening + text)
        page: dict[str, Any] = {}
        for number in range(2, 5):
            answer = self.persistent(tool, {"query": str(value), **page})
            if answer.outcome != "ok" or str(record[kind.id_key]) in answer.content or "true" not in answer.content:
                break
            page = {"page": number}
        if str(record[kind.id_key]) not in answer.content:
            self.say("assistant", f"Sorry, I found no {kind.noun} with {known} {_spoken(value)}.")
            return False
        get = next(t for t in self.world.tools if t.kind is kind and t.sort == "get")
        seen = self.persistent(get, {kind.id_key: record[kind.id_key]})
        if seen.outcome != "ok":
            return self._give_up(kind, record[kind.id_key], seen)
        words = {"f": wanted, "n": kind.noun, "i": record[kind.id_key], "v": _spoken(record[wanted])}
        self.say("assistant", self.rng.choice(TELL).format(**words))
        return True

    def _choose(self, opening: str, tool: Tool, kind: Kind, record: Record) -> bool:
        """The user describes one of several similar items; the agent lists them and uses the one that was meant."""
        rng, title = self.rng, str(record[kind.title])
        words, wanted = title.lower().split(), rng.choice(list(kind.fields))
        odd, rest = rng.choice(((words[-1], " ".join(words[:-1])), (words[0], " ".join(words[1:]))))
        described = rng.choice((f"{odd} {rest}", f"{rest} in {odd}", f"{odd} {rest}", title.lower()))
        self.say("user", opening + rng.choice(ASK_CHOICE).format(d=described, g=wanted))
        line = self._line(kind, words)
        chosen = self._page_through(tool, kind, record, line)
        if chosen is None:
            self.say("assistant", f"Sorry, I found no {described}.")
            return False
        get = next(t for t in self.world.tools if t.kind is kind and t.sort == "get")
        identity = chosen[kind.id_key]
        seen = self.persistent(get, {kind.id_key: identity})
        if seen.outcome != "ok":
            return self._give_up(kind, identity, seen)
        facts = {"f": wanted, "n": rng.choice((described, kind.noun)), "i": identity, "v": _spoken(chosen[wanted])}
        self.say("assistant", rng.choice(TELL).format(**facts))
        return chosen is record

    def _line(self, kind: Kind, words: list[str]) -> str:
        """The words that similar items share, as the API writes them; an unskilled agent writes them in lower case."""
        titles = [str(r[kind.title]) for r in kind.records.values()]
        first, last = " ".join(words[:-1]), " ".join(words[1:])
        shared = max((first, last), key=lambda part: sum(part in t.lower() for t in titles))
        return self._line_as_written(kind, shared) if self.good() else shared

    def _page_through(self, tool: Tool, kind: Kind, record: Record, line: str) -> Record | None:
        seen: list[Record] = []
        page = 1
        while page < 6:
            answer = self.persistent(tool, {"query": line, **({"page": page} if page > 1 else {})})
            seen += [r for r in kind.records.values() if str(r[kind.id_key]) in answer.content and r not in seen]
            if answer.outcome != "ok":
                break
            if not seen and page == 1 and line.lower() == line and self.good():
                line = self._line_as_written(kind, line)
                if line.lower() == line:
                    break
                continue
            if any(r is record for r in seen):
                return record if self.good() or len(seen) == 1 else self.rng.choice(seen)
            if "true" not in answer.content or not self.good():
                break
            page += 1
        return self.rng.choice(seen) if seen and not self.good() else None

    def _line_as_written(self, kind: Kind, line: str) -> str:
        titles = [str(r[kind.title]) for r in kind.records.values()]
        return next((t[t.lower().find(line) :][: len(line)] for t in titles if line in t.lower()), line)

    def _written(self, tool: Tool, kind: Kind, identity: str) -> str:
        return identity.removeprefix(kind.prefix) if tool.bare_id and self.rng.random() < 0.5 else identity

    def _maybe_look(self, kind: Kind, identity: str) -> None:
        if self.rng.random() < 0.4:
            get = next(t for t in self.world.tools if t.kind is kind and t.sort == "get")
            self.persistent(get, {kind.id_key: identity})

    def _give_up(self, kind: Kind, identity: str, answer: Answer) -> bool:
        """An honest agent reports the error; another one claims success. In both cases the goal was not reached."""
        if self.good():
            words = {"n": kind.noun, "i": identity, "m": answer.outcome.replace("_", " ")}
            self.say("assistant", self.rng.choice(SORRY).format(**words))
        else:
            self.say("assistant", self.rng.choice(("Done.", f"All set for {kind.noun} {identity}.", "It is done.")))
        return False


def _spoken(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Cents):
        return f"${value // 100}" if value % 100 == 0 else f"${value // 100}.{value % 100:02d}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
