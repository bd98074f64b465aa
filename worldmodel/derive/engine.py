"""How the rules answer a call: guard, then the form's projection or recipe, then the store. Read this file first.

    call ──▶ Situation ──▶ accident? ──▶ guard ──▶ form ──▶ slots ──▶ answer, effects on the store
                                                              └─▶ a slot that is open: a hole, for the model

Nothing is drawn from a clock or a generator: where a leaf is mixed, the draw is a function of (seed, call, state).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from training.models.edits import canonical
from worldmodel.derive.expressions import evaluate, is_given
from worldmodel.derive.layout import Layout
from worldmodel.derive.paths import fields_of
from worldmodel.derive.rules import BORN, OWN, Effect, Form, Rules, ToolRules
from worldmodel.derive.situation import History, Row, Situation
from worldmodel.derive.store import Facts, Store
from worldmodel.derive.templates import fill
from worldmodel.derive.trees import Leaf, Test, leaf_of
from worldmodel.derive.values import ABSENT, UNKNOWN, dumps, flatten, is_scalar, parse, unflatten
from worldmodel.steps import OK, Step, call_key, outcome_of

SURE = 0.97
"""A leaf whose largest share is smaller is drawn from."""


@dataclass(frozen=True)
class Derivation:
    """What the rules say to a call. `content` is None where the form has a hole; `known` is what they do know of it.

    `support` in [0, 1] is the purity of the leaf times the precision of the slots; `rule` names form and path.
    """

    outcome: str
    content: str | None
    label: str
    rule: str
    support: float
    known: dict[str, Any] = field(default_factory=dict)
    path: tuple[tuple[Test, bool], ...] = ()
    purity: float = 1.0
    accident: bool = False
    templated: bool = False
    invented: bool = False
    """Whether it follows from a record that was invented for this call."""
    untried: str = ""
    """Why no success like this one was ever seen; nothing shows how the system answers then."""

    @property
    def sure(self) -> bool:
        """Whether the guard determines the outcome, rather than drawing it."""
        return self.purity >= SURE


class Session:
    """One episode in a world: its records and its own history. `fork` gives a second one with the same past."""

    def __init__(self, engine: Engine, store: Store | None = None, history: History | None = None) -> None:
        self.engine = engine
        self.store = store or Store(engine.layout, engine.facts)
        self.history = history or History()

    def fork(self) -> Session:
        return Session(self.engine, self.store.fork(), self.history.fork())

    def situation(self, tool: str, arguments: Mapping[str, Any]) -> Situation:
        return Situation(self.engine.rules.schema, self.store, self.history, tool, arguments)

    def derive(
        self, tool: str, arguments: Mapping[str, Any], seed: object = 0, accidents: bool = True
    ) -> Derivation | None:
        """The rules' answer; None for a tool of which nothing was learned. The session is left as it is.

        Without `accidents`, errors that pass by themselves (timeouts, 429) are not drawn.
        """
        rules = self.engine.rules.tools.get(tool)
        if rules is None:
            return None
        return self.engine.decide(rules, self.situation(tool, arguments), seed, accidents)

    def again(self, tool: str, arguments: Mapping[str, Any], decided: Derivation) -> Derivation:
        """The same form, filled from the store as it is now."""
        rules = self.engine.rules.tools[tool]
        form = rules.forms[decided.label]
        known, precision = _fill_slots(form, rules.sources(self.situation(tool, arguments).row))
        whole = len(known) == len(form.slots) and (form.slots or form.template is not None)
        content = _content(self.engine.layout, tool, form, known) if whole else None
        return replace(decided, content=content, known=known, support=decided.purity * precision)

    def given(self, tool: str, arguments: Mapping[str, Any], decided: Derivation) -> set[str]:
        """The open slots that have a value, though not a known one."""
        rules = self.engine.rules.tools[tool]
        row = rules.sources(self.situation(tool, arguments).row)
        slots = [slot for slot in rules.forms[decided.label].slots if slot.path not in decided.known]
        return {slot.path for slot in slots if slot.expression is not None and is_given(slot.expression, row)}

    def refused(self, tool: str, arguments: Mapping[str, Any], seed: object = 0) -> Derivation | None:
        """The refusal of a record that does not exist, by the odds of such refusals; None where none was ever seen."""
        rules = self.engine.rules.tools.get(tool)
        if rules is None or not rules.unknown:
            return None
        leaf = Leaf(rules.unknown)
        label = leaf.draw(uniform(seed, "unknown", call_key(tool, arguments))) or next(iter(rules.unknown))
        form = rules.forms[label]
        rule = f"{tool}/{label}"
        first = Derivation(form.outcome, None, label, rule, 1.0, templated=form.template is not None)
        return self.again(tool, arguments, first)

    def told(
        self, tool: str, arguments: Mapping[str, Any], content: str, outcome: str, provenance: str = "seen"
    ) -> None:
        """Take over an answer, whoever gave it: its records, what it changed, and that the call was made."""
        situation = self.situation(tool, arguments)
        content = self.engine.layout.unpacked(tool, content) if outcome == OK else content
        self.engine.apply(situation, content, outcome, provenance)
        said = self.engine.said(tool, content, outcome)
        self.history.add(tool, arguments, content, said, self.engine.wrote(tool, content, outcome))


class Engine:
    """The rules of one system, ready to answer. `facts` are records that are the same for everybody."""

    def __init__(self, rules: Rules, facts: Facts | None = None) -> None:
        self.rules = rules
        self.layout = Layout(rules.schema)
        self.facts = facts or {}
        self.writes = frozenset(rules.writes)
        self._passing = frozenset((tool, o) for tool, of_tool in rules.tools.items() for o in of_tool.passing())

    def session(self) -> Session:
        return Session(self)

    def passes(self, tool: str, outcome: str) -> bool:
        """Whether an error of a tool passes by itself."""
        return (tool, outcome) in self._passing

    def wrote(self, tool: str, content: str, outcome: str) -> bool:
        """Whether an answer is that of a write which was done."""
        return tool in self.writes and outcome == OK and self.layout.acts(tool, self.layout.read(tool, content))

    def said(self, tool: str, content: str, outcome: str) -> str:
        """How an answer ended, refusals that no flag calls one included."""
        refused = outcome == OK and tool in self.rules.schema.bodied and self.layout.refuses(tool, parse(content))
        return outcome_of(content, True, "") if refused else outcome

    # ----- deciding

    def decide(self, rules: ToolRules, situation: Situation, seed: object, accidents: bool = True) -> Derivation:
        row, history = rules.sources(situation.row), situation.history
        key = call_key(rules.tool, situation.arguments)
        if rules.accidents is not None and accidents:
            leaf, path = leaf_of(rules.accidents, row)
            drawn = leaf.draw(uniform(seed, "accident", key, history.written, history.calls[key]))
            if drawn is not None and drawn != "none":
                return self._answer(rules, drawn, leaf, path, row, accident=True)
        shared = self._shared(rules.tool, key, situation)
        if shared is not None:
            return shared
        leaf, path = leaf_of(rules.guard, row)
        u = uniform(seed, "guard", key, history.written)
        label = None
        if self._misspelt(situation):
            refusals = [name for name in leaf.counts if rules.forms[name].outcome != OK]
            label = leaf.draw(u, refusals) or Leaf(rules.unknown).draw(u)
        label = label or leaf.draw(u) or next(iter(rules.forms))
        why = rules.never_done(row) if rules.forms[label].outcome == OK else ""
        if why:  # practice must not find out that what production never did would succeed
            refusal = leaf.draw(u, [name for name in leaf.counts if rules.forms[name].outcome != OK])
            if refusal is None:
                return replace(self._answer(rules, label, leaf, path, row), untried=why)
            found = self._answer(rules, refusal, leaf, path, row)
            return replace(found, purity=1.0, rule=f"{found.rule}: {why}")
        return self._answer(rules, label, leaf, path, row)

    def _shared(self, tool: str, call: str, situation: Situation) -> Derivation | None:
        """What all conversations are answered to this call, as long as nothing was written."""
        found = None if situation.history.written else situation.store.shared_answer(tool, call)
        if found is None:
            return None
        outcome, content = found
        if outcome == OK and tool in self.layout.schema.packed:
            written = self.layout.written(tool, parse(content), text=True)
            if written is None:
                return None
            content = written
        return Derivation(outcome, content, "", f"{tool}: as in all conversations", 1.0)

    def _answer(
        self, rules: ToolRules, label: str, leaf: Leaf, path: list[tuple[Test, bool]], row: Row, accident: bool = False
    ) -> Derivation:
        form = rules.forms[label]
        purity = leaf.counts.get(label, 0) / max(1, leaf.n)
        known, precision = _fill_slots(form, row)
        content = None
        if len(known) == len(form.slots) and (form.slots or form.template is not None):
            content = _content(self.layout, rules.tool, form, known)
        rule = f"{rules.tool}/{label}"
        templated = form.template is not None
        outcome = _outcome(form, content)
        return Derivation(
            outcome, content, label, rule, purity * precision, known, tuple(path), purity, accident, templated
        )

    def _misspelt(self, situation: Situation) -> bool:
        """Whether an id that the call names is almost that of a known record. What some type knows is spelt right."""
        store, named = situation.store, list[tuple[str, Any]]()
        for link in situation.links:
            key = situation.keys.get(link.name)
            if key and all(part.source.startswith("arg/") for part in link.keys) and self.layout.alone(link.type):
                named.append((link.type, key))
        right = {key for type_, key in named if store.known(type_, key)}
        return any(key not in right and store.near(type_, key) for type_, key in named)

    # ----- the store

    def apply(self, situation: Situation, content: str, outcome: str, provenance: str) -> list[Any]:
        """Bring the store up to date with an answer; returns the records that it showed."""
        store, tool, since = situation.store, situation.tool, situation.listed
        outcome = self.said(tool, content, outcome)
        if self.wrote(tool, content, outcome):
            store.remember()
        store.time += 1
        if outcome != OK:
            for link in situation.links:
                key = situation.keys.get(link.name)
                if key and all(part.source.startswith("arg/") for part in link.keys):
                    store.deny(link.type, key, outcome)
            return []
        body = self.layout.read(tool, content)
        rules = self.rules.tools.get(tool)
        if rules is not None and rules.effects and self.layout.acts(tool, body):
            answer = answer_row(body)
            marks, found = self.named_by_answer(situation, answer)
            named = {link: key for (_, key), link in marks.items()}
            self._write(rules.effects, situation, {**situation.row, **answer, **found}, named)
        pending = dict(store.pending)
        shown = store.absorb(tool, situation.arguments, body, provenance, tool not in self.writes, since)
        for type_, key, name, value in shown:  # what was not known before the writes is known now, and so are these
            for effect, row in pending.pop((tool, (type_, key), name), ()):
                value = evaluate(effect.expression, {**row, f"rec/{effect.link}/{name}": value})
                if value is UNKNOWN:
                    break
                store.set(type_, key, name, value, "written")
        return shown

    @staticmethod
    def named_by_answer(situation: Situation, answer: Row) -> tuple[dict[tuple[str, Any], str], Row]:
        """The old records that only an answer, a row of `ans/...`, names, by which link, and what is known of them."""
        marks: dict[tuple[str, Any], str] = {}
        found: dict[str, Any] = {}
        for link in situation.links if answer else ():
            if link.old and (key := link.answered(answer)):
                marks[(link.type, key)] = link.name
                known = situation.store.fields(link.type, key)
                found.update({f"rec/{link.name}/{name}": value for name, value in known.items()})
        return marks, found

    @staticmethod
    def _write(effects: tuple[Effect, ...], situation: Situation, row: Row, named: Mapping[str, Any]) -> None:
        store = situation.store
        before: dict[tuple[str, Any], dict[str, Any]] = {}
        values = []
        created = {link.name: key for link in situation.links if link.creates and (key := link.answered(row))}
        keys = {**situation.keys, **named, **created}
        for effect in effects:
            key = keys.get(effect.link)
            if key is None:
                continue
            if effect.link in created:  # what is known of the record by another way is not guessed
                row = {**row, BORN + effect.field: evaluate(effect.expression, row)}
                if store.get(effect.type, key, effect.field) is not UNKNOWN:
                    continue
            for name in fields_of(effect.field, situation.arguments):
                if name != effect.field:
                    row = {**row, f"rec/{effect.link}/{effect.field}": store.get(effect.type, key, name)}
                values.append((effect, key, name, evaluate(effect.expression, row)))
        for effect, key, name, value in values:
            old = store.get(effect.type, key, name)
            for reader in effect.lag:
                mark = (reader, (effect.type, key))
                before.setdefault(mark, dict(store.late.get(mark, {}))).setdefault(name, old)
                if before[mark][name] is UNKNOWN:
                    store.pending[(*mark, name)] = (*store.pending.get((*mark, name), ()), (effect, row))
            if value is UNKNOWN:
                store.forget(effect.type, key, name)
            else:
                store.set(effect.type, key, name, value, "written")
        store.late.update(before)


def _outcome(form: Form, content: str | None) -> str:
    """The class of an answer: that of its text, where such classes come from the texts and their values."""
    if form.outcome == OK or content is None:
        return form.outcome
    said = form.varied or outcome_of(form.example, True, "") == form.outcome
    return outcome_of(content, True, "") if said else form.outcome


def store_determines(engine: Engine, steps: Sequence[Step]) -> list[bool]:
    """Of each call of a recording, whether some form of the tool, filled from the store, is what production answered:
    what is drawn by its odds is then derivable, and what the store does not hold is not."""
    session = engine.session()
    out = []
    for step in steps:
        rules = engine.rules.tools.get(step.tool)
        row = rules.sources(session.situation(step.tool, step.arguments).row) if rules else {}
        found = False
        for form in rules.forms.values() if rules else ():
            if form.outcome == step.outcome or form.varied and step.outcome != OK:
                known, _ = _fill_slots(form, row)
                if len(known) == len(form.slots) and (form.slots or form.template is not None):
                    content = _content(engine.layout, step.tool, form, known)
                    found = found or content is not None and canonical(content) == canonical(step.content)
        out.append(found)
        session.told(step.tool, step.arguments, step.content, step.outcome)
    return out


def _fill_slots(form: Form, row: Row) -> tuple[dict[str, Any], float]:
    """The known slots, and how often the recipes of all of them are right. Those that follow from others come last."""
    found: dict[str, Any] = {}
    precision = 1.0
    for slot in sorted(form.slots, key=lambda slot: slot.own):
        if slot.expression is None:
            continue
        here = {**row, **{OWN + path: value for path, value in found.items()}} if slot.own else row
        value = evaluate(slot.expression, here)
        if value is not UNKNOWN and not (value is ABSENT and form.template is not None):  # a gap always has a value
            found[slot.path] = value
            precision = min(precision, (slot.support + 1) / (slot.support + slot.against + 1))
    return {slot.path: found[slot.path] for slot in form.slots if slot.path in found}, precision


def _content(layout: Layout, tool: str, form: Form, known: dict[str, Any]) -> str | None:
    if form.template is not None:
        value = fill(form.template, [known[slot.path] for slot in form.slots])
    else:
        value = unflatten(known)
    text = form.template is not None or form.text
    if form.outcome == OK:
        return layout.written(tool, value, text)
    return value if isinstance(value, str) and text else dumps(value)


def answer_row(body: Any) -> Row:
    """The fields of an answer as sources of the effects that it has."""
    if isinstance(body, dict):
        return {f"ans/{name}": v for name, v in flatten(body) if is_scalar(v) or isinstance(v, list | dict)}
    return {"ans/": body}


def uniform(*parts: object) -> float:
    """A number in [0, 1) that is a function of its arguments alone."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


__all__ = ["ABSENT", "Derivation", "Engine", "Session", "uniform"]
