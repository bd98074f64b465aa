"""Conversations in procedural worlds: a user with a goal, an agent of a given skill, and the true outcome."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from training.tiny.pretraining.worlds import phrases as say
from training.tiny.pretraining.worlds.failures import FORMS
from training.tiny.pretraining.worlds.world import Answer, Api, Field, Kind, Record, Tool, World


@dataclass
class Conversation:
    """Messages in the canonical form, the tools, each call's outcome class, and whether all goals were reached."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    outcomes: list[str] = field(default_factory=list)
    success: bool = True
    lists: list[int] = field(default_factory=list)
    """Positions of the messages in which the agent reads one of several listed items."""


class Talk:
    """Writes one conversation. `skill` is the probability of the right choice at every decision of the agent."""

    def __init__(self, rng: random.Random, api: Api | None = None) -> None:
        self.rng = rng
        self.api = api or Api(rng)
        self.world = World(self.api)
        self.skill = rng.choice((1.0, 1.0, 0.9, 0.8, 0.5))
        self.note = rng.choice(say.NOTES) if rng.random() < 0.35 else ""
        self.out = Conversation([], [t.definition() for t in self.api.tools])
        self._calls = 0
        self._known: dict[str, Record] = {}  # corrections that the agent has learned, by tool

    def run(self) -> Conversation:
        self.say("system", self.rng.choice(say.SYSTEM).format(place=self.api.sounds.name()))
        for number in range(self.rng.choice((1, 1, 2, 2, 3))):
            if not any(self.world.records.values()):
                break  # all were deleted
            reached = self._goal(self.rng.choice(say.HELLO if number == 0 else say.MORE))
            self.out.success &= reached
            if not reached and self.rng.random() < 0.4:
                self.say("user", self.rng.choice(say.UPSET))
                self.say("assistant", self.rng.choice(say.CANNOT))
                break
        if self.rng.random() < 0.6:
            self.say("user", self.rng.choice(say.THANKS))
            self.say("assistant", self.rng.choice(say.REPLY))
        return self.out

    # ----- messages

    def say(self, role: str, text: str) -> None:
        self.out.messages.append({"role": role, "content": " ".join(text.split())})

    def good(self) -> bool:
        return self.rng.random() < self.skill

    def call(self, tool: Tool, arguments: dict[str, Any]) -> Answer:
        self._calls += 1
        answer = self.world.call(tool.name, arguments)
        calls = [{"id": f"c{self._calls}", "name": tool.name, "arguments": arguments}]
        values = " ".join(_plain(v) for v in arguments.values())
        note = self.note.format(a=tool.name.replace("_", " "), v=values) if self.note else None
        self.out.messages.append({"role": "assistant", "content": note, "tool_calls": calls})
        result = {"role": "tool", "content": answer.content, "tool_call_id": f"c{self._calls}", "name": tool.name}
        self.out.messages.append({**result, "is_error": answer.outcome != "ok"})
        self.out.outcomes.append(answer.outcome)
        return answer

    def persistent(self, tool: Tool, arguments: dict[str, Any], quantity: int | None = None) -> Answer:
        """Call as a skilled agent does: repeat after outages, pause, correct what an error names."""
        answer = self.call(tool, arguments)
        for _ in range(5):
            repaired = self._repair(tool, arguments, answer, quantity)
            if repaired is None or not self.good():
                return answer
            arguments = repaired
            answer = self.call(tool, arguments)
        return answer

    def _repair(self, tool: Tool, arguments: Record, answer: Answer, quantity: int | None) -> Record | None:
        if answer.reason == "unavailable":
            return arguments
        if answer.reason == "throttled":
            pause = next(t for t in self.api.tools if t.sort == "pause")
            self.call(pause, {pause.argument: answer.hint})
            return arguments
        if isinstance(answer.hint, dict) and answer.reason in ("invalid", "confirm", "version"):
            return {**arguments, **answer.hint}
        if answer.hint == "unit" and tool.field is not None and tool.field.unit is not None and quantity is not None:
            return {**arguments, tool.argument: tool.field.unit.value(quantity, tool.small)}
        return None

    # ----- goals

    def _goal(self, opening: str) -> bool:
        tools = [t for t in self.api.tools if t.sort != "pause" and self.world.records[t.kind.noun]]
        tool = self.rng.choices(tools, [4 if t.sort == "browse" else 1 for t in tools])[0]
        record = self.rng.choice(list(self.world.records[tool.kind.noun].values()))
        goals: dict[str, Callable[[str, Tool, Record], bool]] = {
            "get": self._read, "list": self._find, "browse": self._choose, "count": self._count, "set": self._set,
            "act": self._act, "create": self._create, "delete": self._delete, "link": self._link,
        }  # fmt: skip
        return goals[tool.sort](opening, tool, record)

    def _request(self, opening: str, templates: tuple[str, ...], kind: Kind, identity: str, **words: Any) -> str:
        """Write the user's request; a forgetful user names the id only when asked. Returns the id as it was said."""
        forgetful = self.rng.random() < 0.2
        form = self.rng.choice(kind.ids.forms()) if self.rng.random() < 0.25 else "whole"
        identity = FORMS[form](kind.ids, identity)
        said = "" if forgetful else identity
        self.say("user", opening + self.rng.choice(templates).format(n=kind.noun, i=said, **words))
        if forgetful:
            key = kind.id_key.replace("_", " ")
            self.say("assistant", self.rng.choice(say.WHICH).format(n=kind.noun, k=key))
            self.say("user", self.rng.choice(say.GIVE).format(i=identity))
        return identity

    def _written(self, tool: Tool, identity: str, record: Record) -> str:
        """The id that the agent writes: as the user said it, or in the form that the tool takes if that is known."""
        known = self._known.get(tool.name)
        return FORMS[tool.form](tool.kind.ids, record[tool.kind.id_key]) if known is not None else identity

    def _drawn(self, kind: Kind, record: Record) -> Record:
        """The record that the user names; sometimes one that does not exist."""
        return {**record, kind.id_key: kind.ids.draw(self.rng)} if self.rng.random() < 0.08 else record

    def _one(self, tool: Tool, said: str, record: Record, more: Record, quantity: int | None = None) -> Answer:
        """A call about one record; what an error taught is remembered for the tool."""
        kind = tool.kind
        arguments = {kind.id_key: self._written(tool, said, record), **more}
        if self.api.failures.versions in tool.parameters:
            seen = record.get(self.api.failures.versions, 1)
            arguments[self.api.failures.versions] = seen if self.rng.random() < 0.5 else self.rng.randint(1, 40)
        answer = self.persistent(tool, arguments, quantity)
        if answer.outcome == "ok":
            self._known[tool.name] = {}
        return answer

    def _reader(self, kind: Kind) -> Tool:
        return next(t for t in self.api.tools if t.kind is kind and t.sort == "get")

    def _look(self, kind: Kind, said: str, record: Record, share: float = 0.35) -> None:
        if self.rng.random() < share:
            self._one(self._reader(kind), said, record, {})

    def _read(self, opening: str, tool: Tool, record: Record) -> bool:
        kind = tool.kind
        record, chosen = self._drawn(kind, record), self.rng.choice(list(kind.fields.values()))
        said = self._request(opening, say.ASK_READ, kind, record[kind.id_key], f=chosen.name)
        return self._told(tool, said, record, chosen, kind.noun)

    def _told(self, tool: Tool, said: str, record: Record, wanted: Field, named: str) -> bool:
        """Read a record and tell one of its fields. A lagging read is repeated by a skilled agent."""
        kind = tool.kind
        answer = self._one(tool, said, record, {})
        truth = wanted.shown(record[wanted.name])
        for _ in range(3):
            if answer.outcome != "ok" or answer.hint[wanted.name] == truth or not self.good():
                break
            answer = self.call(tool, {kind.id_key: FORMS[tool.form](kind.ids, record[kind.id_key])})
        if answer.outcome != "ok":
            return self._give_up(kind, said, answer)
        shown = answer.hint[wanted.name]
        if not self.good():
            shown = self.rng.choice(list(answer.hint.values()))
        spoken = self._spoken_as_seen(wanted, shown)
        self.say("assistant", self.rng.choice(say.TELL).format(f=wanted.name, n=named, i=said, v=spoken))
        return shown == truth

    def _spoken_as_seen(self, wanted: Field, shown: Any) -> str:
        if wanted.unit is None or isinstance(shown, bool) or not isinstance(shown, int | float):
            return _plain(shown)
        quantity = shown if wanted.small else round(shown * wanted.unit.factor)
        return wanted.unit.spoken(int(quantity), wanted.small if self.rng.random() < 0.6 else False)

    def _spoken(self, chosen: Field, value: Any) -> str:
        """A value as the user says it, in either unit."""
        if chosen.unit is None:
            return _plain(value)
        return chosen.unit.spoken(value, self.rng.random() < 0.3)

    def _set(self, opening: str, tool: Tool, record: Record) -> bool:
        kind, chosen = tool.kind, tool.field
        assert chosen is not None
        value, record = chosen.draw(), self._drawn(kind, record)
        spoken = self._spoken(chosen, value)
        said = self._request(opening, say.ASK_SET, kind, record[kind.id_key], f=chosen.name, v=spoken)
        self._look(kind, said, record)
        argument = value
        if chosen.unit is not None:
            known = tool.name in self._known or self.rng.random() < 0.6
            argument = chosen.unit.value(value, tool.small if known and self.good() else not tool.small)
        answer = self._one(tool, said, record, {tool.argument: argument}, value if chosen.unit else None)
        if answer.outcome != "ok":
            return self._give_up(kind, said, answer)
        self._look(kind, said, record)
        self.say("assistant", self.rng.choice(say.DONE_SET).format(f=chosen.name, n=kind.noun, i=said, v=spoken))
        return record[chosen.name] == value

    def _act(self, opening: str, tool: Tool, record: Record) -> bool:
        kind, record = tool.kind, self._drawn(tool.kind, record)
        said = self._request(opening, say.ASK_ACT, kind, record[kind.id_key], a=tool.verb)
        self._look(kind, said, record)
        answer = self._one(tool, said, record, {})
        if answer.outcome != "ok":
            return self._give_up(kind, said, answer)
        self._look(kind, said, record)
        self.say("assistant", self.rng.choice(say.DONE_ACT).format(a=tool.verb, n=kind.noun, i=said, s=tool.gives))
        return True

    def _delete(self, opening: str, tool: Tool, record: Record) -> bool:
        kind, record = tool.kind, self._drawn(tool.kind, record)
        said = self._request(opening, say.ASK_DELETE, kind, record[kind.id_key])
        self._look(kind, said, record)
        answer = self._one(tool, said, record, {})
        if answer.outcome != "ok":
            return self._give_up(kind, said, answer)
        self._look(kind, said, record, 0.2)
        self.say("assistant", self.rng.choice(say.DONE_DELETE).format(n=kind.noun, i=said))
        return True

    def _create(self, opening: str, tool: Tool, record: Record) -> bool:
        kind, chosen = tool.kind, tool.field
        assert chosen is not None
        value = chosen.draw()
        spoken = self._spoken(chosen, value)
        self.say("user", opening + self.rng.choice(say.ASK_CREATE).format(n=kind.noun, f=chosen.name, v=spoken))
        argument = value if chosen.unit is None else chosen.unit.value(value, tool.small)
        answer = self.persistent(tool, {tool.argument: argument}, value if chosen.unit else None)
        if answer.outcome != "ok":
            return self._give_up(kind, spoken, answer)
        made = answer.hint
        self._look(kind, made[kind.id_key], made)
        words = {"n": kind.noun, "i": made[kind.id_key], "f": chosen.name, "v": spoken}
        self.say("assistant", self.rng.choice(say.DONE_CREATE).format(**words))
        return True

    def _link(self, opening: str, tool: Tool, record: Record) -> bool:
        kind, parent = tool.kind, tool.kind.parent
        assert parent is not None
        others = list(self.world.records[parent.noun])
        other = self.rng.choice(others) if others and self.rng.random() < 0.9 else parent.ids.draw(self.rng)
        words = {"m": parent.noun, "j": other}
        said = self._request(opening, say.ASK_LINK, kind, record[kind.id_key], **words)
        answer = self._one(tool, said, record, {tool.argument: other})
        if answer.outcome != "ok":
            return self._give_up(kind, said, answer)
        self._look(kind, said, record)
        self.say("assistant", self.rng.choice(say.DONE_LINK).format(n=kind.noun, i=said, **words))
        return True

    def _count(self, opening: str, tool: Tool, record: Record) -> bool:
        kind, chosen = tool.kind, tool.field
        assert chosen is not None
        value = record[chosen.name]
        words = {"p": kind.plural, "f": chosen.name, "v": self._spoken(chosen, value)}
        self.say("user", opening + self.rng.choice(say.ASK_COUNT).format(**words))
        answer = self.persistent(tool, {tool.argument: chosen.shown(value)})
        if answer.outcome != "ok":
            return self._give_up(kind, words["v"], answer)
        count = answer.hint if self.good() else self.rng.randint(0, 9)
        self.say("assistant", self.rng.choice(say.COUNTED).format(c=count, **words))
        return bool(count == answer.hint)

    def _find(self, opening: str, tool: Tool, record: Record) -> bool:
        """One record by the value of a field, then another field of it."""
        kind, chosen = tool.kind, tool.field
        assert chosen is not None
        value, wanted = record[chosen.name], self.rng.choice(list(kind.fields.values()))
        words = {"f": chosen.name, "v": self._spoken(chosen, value), "g": wanted.name}
        self.say("user", opening + self.rng.choice(say.ASK_FIND).format(n=kind.noun, **words))
        answer = self.persistent(tool, {tool.argument: chosen.shown(value)})
        if answer.outcome != "ok":
            return self._give_up(kind, words["v"], answer)
        entries, _ = answer.hint
        if not entries:
            named = f"{kind.noun} with {words['f']} {words['v']}"
            self.say("assistant", self.rng.choice(say.NOT_FOUND).format(d=named))
            return False
        return self._told(self._reader(kind), entries[0][kind.id_key], entries[0], wanted, kind.noun)

    def _choose(self, opening: str, tool: Tool, record: Record) -> bool:
        """The user describes one of several similar items; the agent lists them and uses the one that was meant."""
        rng, kind = self.rng, tool.kind
        words, wanted = str(record[kind.title]).lower().split(), rng.choice(list(kind.fields.values()))
        odd, rest = rng.choice(((words[-1], " ".join(words[:-1])), (words[0], " ".join(words[1:]))))
        described = rng.choice((f"{odd} {rest}", f"{rest}, the {odd} one", f"{rest} ({odd})", " ".join(words)))
        self.say("user", opening + rng.choice(say.ASK_CHOICE).format(d=described, g=wanted.name))
        chosen = self._page_through(tool, record, self._line(kind, words))
        if chosen is None:
            self.say("assistant", rng.choice(say.NOT_FOUND).format(d=described))
            return False
        self.out.lists.append(len(self.out.messages))
        named = rng.choice((described, kind.noun))
        reached = self._told(self._reader(kind), chosen[kind.id_key], chosen, wanted, named)
        return reached and chosen is record

    def _line(self, kind: Kind, words: list[str]) -> str:
        """The words that similar items share, as the API writes them; an unskilled agent writes them in lower case."""
        titles = [str(r[kind.title]) for r in self.world.records[kind.noun].values()]
        first, last = " ".join(words[:-1]), " ".join(words[1:])
        shared = max((first, last), key=lambda part: sum(part in t.lower() for t in titles))
        if not self.good():
            return shared
        return next((t[t.lower().find(shared) :][: len(shared)] for t in titles if shared in t.lower()), shared)

    def _page_through(self, tool: Tool, record: Record, line: str) -> Record | None:
        """The record that the agent takes after one page or several; None if it found none."""
        seen: list[Record] = []
        paging, size = self.api.paging, self.api.page_size
        first, step = (1, 1) if "page" in paging else (0, size)
        place = first
        for _ in range(6):
            answer = self.persistent(tool, {self.api.query: line, **({} if place == first else {paging: place})})
            if answer.outcome != "ok":
                break
            entries, more = answer.hint
            seen += entries
            if any(r is record for r in seen):
                return record if self.good() or len(seen) == 1 else self.rng.choice(seen)
            if not seen and line[0].islower() and self.good():
                line = line[0].upper() + line[1:]
                continue
            if not more or not self.good():
                break
            place += step
        return self.rng.choice(seen) if seen and not self.good() else None

    def _give_up(self, kind: Kind, named: str, answer: Answer) -> bool:
        """An honest agent reports the error; another one claims success. In both cases the goal was not reached."""
        words = {"n": kind.noun, "i": named, "m": answer.message}
        self.say("assistant", self.rng.choice(say.REFUSED if self.good() else say.CLAIM).format(**words))
        return False


def _plain(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
