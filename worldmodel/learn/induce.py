"""From recorded conversations to rules. Read this file first.

1. Record types, keys and links (`records`, `links`).
2. The conversations are replayed through an empty store; fields that change between two sightings give the effects of
   writes (`effects`), and a second replay applies them.
3. Per tool: its forms (`forms`), a tree that decides among them (`guards`), an expression for each slot (`recipes`).
4. Every rule is scored on conversations that it was not learned from.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from training.models.edits import canonical
from worldmodel.derive.engine import Engine, Session, answer_row
from worldmodel.derive.expressions import First, FirstItem
from worldmodel.derive.rules import Effect, Form, ItemTest, Law, Rules, Slot, ToolRules, with_laws
from worldmodel.derive.schema import EPISODE, Schema
from worldmodel.derive.situation import FACT, Row
from worldmodel.derive.store import Facts, Store
from worldmodel.derive.trees import Leaf, Split, Test, leaf_of
from worldmodel.derive.values import dumps, is_number
from worldmodel.effects import is_read_verb
from worldmodel.effects import learn_effects as learn_roles
from worldmodel.learn.births import learn_births
from worldmodel.learn.clock import learn_clock
from worldmodel.learn.columns import Table
from worldmodel.learn.conversations import MOST_ROWS, Conversations, bodied, learn_transient, repeatable, sample
from worldmodel.learn.effects import learn_bodied, learn_effects, learn_inert
from worldmodel.learn.forms import Draft, draft_forms
from worldmodel.learn.guards import Refusals, grow, grow_for_new, held_out, learn_untried
from worldmodel.learn.lags import learn_lags
from worldmodel.learn.paths import HOME, learn_walks
from worldmodel.learn.rows import Recorded, Rows
from worldmodel.learn.schema.arguments import learn_asked, learn_expected, learn_implied, with_scopes
from worldmodel.learn.schema.facts import NOTHING, Shared, shared_facts, usual
from worldmodel.learn.schema.finds import learn_finds
from worldmodel.learn.schema.links import learn_links
from worldmodel.learn.schema.packing import learn_packing, unpacked
from worldmodel.learn.schema.records import learn_schema
from worldmodel.learn.schema.repeats import learn_repeats
from worldmodel.learn.schema.texts import learn_texts, read_all
from worldmodel.learn.schema.views import closed_views, learn_views
from worldmodel.learn.search.formulas import argument_laws, laws_in, novel
from worldmodel.learn.slots import FEWEST_ROWS, Parts, learn_slot, number_in, with_siblings
from worldmodel.steps import OK, Step

FEWEST_TO_HOLD_OUT = 40
MOST_OF_FORM = 700
AGREEMENT = 0.97


def induce(conversations: Conversations) -> tuple[Rules, Facts]:
    """The rules of a system, and the facts that all its conversations share."""
    rules, shared = learn_rules(conversations)
    return rules, shared.facts


def learn_rules(conversations: Conversations) -> tuple[Rules, Shared]:
    """The same, and which of the facts one conversation alone has shown."""
    plain = sample(conversations)
    packed = learn_packing(plain)
    chosen = unpacked(plain, packed)
    texts = learn_texts(chosen)
    read = read_all(chosen, texts)
    more: dict[str, Any] = {"texts": texts, "repeats": learn_repeats(chosen), "expected": learn_expected(chosen),
                            "packed": packed}
    writes = set(learn_roles(list(chosen.values())).writes)
    acting = writes | {s.tool for steps in chosen.values() for s in steps if not is_read_verb(s.tool)}
    more["clock"] = learn_clock(read, acting)
    schema = _linked(read, learn_schema(read, writes=acting))
    schema = msgspec.structs.replace(schema, **more)
    more |= {"asked": learn_asked(chosen, schema), "implied": learn_implied(chosen, schema)}
    schema = msgspec.structs.replace(schema, **more)
    schema = msgspec.structs.replace(schema, views=learn_views(chosen, schema))
    first = replay(chosen, Engine(_bare(schema, {}, writes)))
    heads = {tool: (*texts.get(tool, ()), *packing.heads) for tool, packing in packed.items()}
    more["inert"] = learn_inert(first, {**texts, **heads})
    more["bodied"] = learn_bodied(first, bodied(plain), writes)
    if more["inert"] or more["bodied"]:
        schema = msgspec.structs.replace(schema, inert=more["inert"], bodied=more["bodied"])
        first = replay(chosen, Engine(_bare(schema, {}, writes)))
    effects, own = learn_effects(first, frozenset(writes))
    moves = {tool: [e for e in found if e.type == EPISODE] for tool, found in effects.items()}
    walks = learn_walks(chosen)
    if _hidden(schema) or any(moves.values()) or walks:  # what answers hang on is seen where the session is followed
        led = msgspec.structs.replace(schema, start=dict.fromkeys(walks, HOME))
        followed = replay(chosen, Engine(_bare(led, _with_walks(moves, walks), writes)))
        states = {cid: [_state(one.row) for one in found] for cid, found in followed.items()}
        again = learn_schema(read, states, acting)
        names = {source[4:] for _, _, source in _hidden(again)}
        walks = {name: effect for name, effect in walks.items() if name in names}
        if names:
            start = _start(first, names, own, {(tool, e.field) for tool, found in moves.items() for e in found})
            start.update(dict.fromkeys(walks, HOME))
            schema = _linked(read, msgspec.structs.replace(again, start=start, **more))
            schema = msgspec.structs.replace(schema, views=learn_views(chosen, schema))
            first = replay(chosen, Engine(_bare(schema, _with_walks(moves, walks), writes)))
            effects, own = learn_effects(first, frozenset(writes))
            effects = _with_walks(effects, walks)
    moved = _with_walks(moves, walks) if _hidden(schema) else {}
    world = _follow(chosen, schema, (effects, own), first, writes, walks)
    lags = learn_lags(chosen, world.recorded, world.schema, world.again)
    if lags:  # what they show is not what is
        schema = msgspec.structs.replace(schema, lags=lags)
        first = replay(chosen, Engine(_bare(schema, moved, writes)))
        effects, own = learn_effects(first, frozenset(writes))
        world = _follow(chosen, schema, (_with_walks(effects, walks), own), first, writes, walks)
    schema, shared, effects, writes, second = world
    by_tool: dict[str, list[Recorded]] = defaultdict(list)
    for recorded in second.values():
        for one in recorded:
            by_tool[one.step.tool].append(one)
    transient = learn_transient(chosen)
    tools = {
        tool: learn_tool(tool, found, transient, schema, tuple(effects.get(tool, ())))
        for tool, found in sorted(by_tool.items())
    }
    refusals = Refusals(tools, schema)
    for tool, rules in tools.items():
        if (favoured := refusals.favoured(rules)) is not None:
            more_of = by_tool[tool], transient, schema, tuple(effects.get(tool, ()))
            tools[tool] = learn_tool(tool, *more_of, before=rules, favoured=favoured)
    for tool, found in learn_untried(second, schema, writes).items():
        tools[tool] = msgspec.structs.replace(tools[tool], untried=found)
    return Rules(schema, tools, tuple(sorted(writes))), shared


def _linked(read: Conversations, schema: Schema) -> Schema:
    """The schema with the fields that only calls say, and with how calls name and find records."""
    return learn_finds(read, learn_links(read, with_scopes(read, schema)))


class _World(NamedTuple):
    """How the records of a system change, and the conversations as they went in it."""

    schema: Schema
    shared: Shared
    effects: dict[str, list[Effect]]
    writes: set[str]
    recorded: dict[str, list[Recorded]]

    def again(self, conversations: Conversations, schema: Schema) -> dict[str, list[Recorded]]:
        """Some conversations, with another schema."""
        return replay(conversations, Engine(_bare(schema, self.effects, self.writes)), self.shared)


def _follow(
    chosen: Conversations, schema: Schema, found: tuple[dict[str, list[Effect]], set[str]],
    first: Mapping[str, Sequence[Recorded]], writes: set[str], walks: Mapping[str, Effect],
) -> _World:  # fmt: skip
    """How the records change: facts, effects of writes, what is created, and the last replay. `first` is a replay
    without these effects; `found` are the effects that it shows, and the tools whose own answers show a change."""
    effects, own = found
    if any(effect.support == 0 for some in effects.values() for effect in some):
        changing = own | {tool for tool, some in effects.items() if some}
        _, known = shared_facts(first, schema, changing, writes - repeatable(chosen))
        followed = replay(chosen, Engine(_bare(schema, effects, writes)), known)
        effects = _with_walks(learn_effects(followed, frozenset(writes), followed=True)[0], walks)
    changing = own | {tool for tool, some in effects.items() if some}
    writes = (writes - repeatable(chosen)) | changing
    schema, shared = shared_facts(first, schema, changing, writes)
    schema = closed_views(first, schema, shared, changing)
    second = replay(chosen, Engine(_bare(schema, effects, writes)), shared)
    births = learn_births(second, writes)
    if births:  # what is created is followed, and what happens to it
        second = replay(chosen, Engine(_bare(schema, _joined(effects, births), writes)), shared)
        effects = _with_walks(learn_effects(second, frozenset(writes), followed=True)[0], walks)
        effects = _joined(effects, births)
        second = replay(chosen, Engine(_bare(schema, effects, writes)), shared)
    return _World(schema, shared, effects, writes, second)


def _bare(schema: Schema, effects: Mapping[str, Sequence[Effect]], writes: set[str]) -> Rules:
    """Rules that follow what happens and answer nothing."""
    tools = {tool: ToolRules(tool, 0, {}, Leaf({}), effects=tuple(found)) for tool, found in effects.items()}
    return Rules(schema, tools, tuple(sorted(writes)))


def _joined(
    effects: Mapping[str, Sequence[Effect]], more: Mapping[str, Sequence[Effect]]
) -> dict[str, list[Effect]]:
    return {tool: [*effects.get(tool, ()), *more.get(tool, ())] for tool in {*effects, *more}}


def _with_walks(effects: Mapping[str, Sequence[Effect]], walks: Mapping[str, Effect]) -> dict[str, list[Effect]]:
    out = defaultdict(list, {tool: list(found) for tool, found in effects.items()})
    for field, effect in walks.items():
        out[field[1:].partition(":")[0]].append(effect)
    return out


def _start(
    conversations: Mapping[str, Sequence[Recorded]], names: set[str], own: set[str], moves: set[tuple[str, str]]
) -> dict[str, Any]:
    """Fields of the session that are the same at the start of all conversations: what is shown of them before a call
    changes them (`moves`), by a tool that does not change what it shows (`own`)."""
    first: dict[str, list[Any]] = defaultdict(list)
    for recorded in conversations.values():
        open_ = set(names)
        for one in recorded:
            if one.step.outcome != OK:
                continue
            open_ -= {name for name in open_ if (one.step.tool, name) in moves}
            for type_, _, name, value in one.shown:
                if type_ == EPISODE and name in open_:
                    open_.remove(name)
                    if one.step.tool not in own:
                        first[name].append(value)
    often = {name: Counter(map(repr, values)).most_common(1)[0][1] for name, values in first.items()}
    return {n: usual(all_) for n, all_ in first.items() if len(all_) >= 5 and often[n] >= AGREEMENT * len(all_)}


def _state(row: Row) -> dict[str, Any]:
    return {name[4:]: value for name, value in row.items() if name.startswith("now/")}


def _hidden(schema: Schema) -> set[tuple[str, str, str]]:
    """The parts of keys that no call names."""
    return {(s.tool, s.path, k.source) for s in schema.sites for k in s.keys if k.source.startswith("now/")}


def replay(conversations: Conversations, engine: Engine, shared: Shared = NOTHING) -> dict[str, list[Recorded]]:
    """Every recorded call with the situation that it was made in, if others had shown what they share."""
    out = {}
    for cid, steps in conversations.items():
        session = Session(engine, Store(engine.layout, shared.but_of(cid)))
        recorded, touched = [], set[Any]()
        for at, step in enumerate(steps):
            situation = session.situation(step.tool, step.arguments)
            marks = {
                (link.type, situation.keys[link.name]): link.name
                for link in reversed(situation.links)
                if link.name in situation.keys
            }
            marks[(EPISODE, ())] = EPISODE
            answer = answer_row(engine.layout.read(step.tool, step.content)) if step.outcome == OK else {}
            old, found = engine.named_by_answer(situation, answer if step.tool in engine.writes else {})
            shown = engine.apply(situation, step.content, step.outcome, "seen")
            if situation.listed is not session.store:  # a list that lags shows nothing of the last write
                shown = [one for one in shown if one[:2] not in touched]
            new = {
                (link.type, key): link.name
                for link in situation.links
                if link.creates and answer and (key := link.answered(answer))
            }
            acted = step.outcome == OK and engine.layout.acts(step.tool, engine.layout.read(step.tool, step.content))
            row = {name: value for name, value in situation.row.items() if not name.startswith(FACT)}
            facts = frozenset(name[len(FACT) :] for name in situation.row if name.startswith(FACT))
            led = {link.name for link in situation.links if link.chosen}
            marks.update({mark: link for mark, link in old.items() if mark not in marks or marks[mark] in led})
            one = Recorded(cid, at, step, row, situation.keys, marks, shown, answer, new, found, acted, facts)
            recorded.append(one)
            wrote = acted and step.tool in engine.writes
            touched = {*marks, *new} - {(EPISODE, ())} if wrote else touched
            said = engine.said(step.tool, step.content, step.outcome)
            session.history.add(step.tool, step.arguments, step.content, said, wrote)
        out[cid] = recorded
    return out


def derived_calls(engine: Engine, conversations: Conversations, shared: Shared) -> set[tuple[str, int]]:
    """(conversation, call) of the recorded calls that the rules answer as production did, each in its own state."""
    found = set()
    for cid, steps in conversations.items():
        session = Session(engine, Store(engine.layout, shared.but_of(cid)))
        for at, step in enumerate(steps):
            answer = session.derive(step.tool, step.arguments, cid, accidents=False)
            if answer is not None and answer.content is not None and answer.sure:
                if canonical(answer.content) == canonical(step.content):
                    found.add((cid, at))
            session.told(step.tool, step.arguments, step.content, step.outcome)
    return found


# ----- one tool


def learn_tool(
    tool: str, recorded: Sequence[Recorded], transient: set[tuple[str, str]], schema: Schema, effects: tuple[Any, ...],
    before: ToolRules | None = None, favoured: Callable[[Test], bool] | None = None,
) -> ToolRules:  # fmt: skip
    """The forms of a tool, the trees that decide among them, and an expression for each of their slots. With `before`,
    only the trees are grown again, with `favoured` tests."""
    recorded = [recorded[k] for k in _spread(len(recorded), 2 * MOST_ROWS)]
    rows: Sequence[Row] = [one.row for one in recorded]
    steps = [one.step for one in recorded]
    cids = [one.conversation for one in recorded]
    told = tool in schema.packed and bool(schema.packed[tool].heads)
    drafts, labels = draft_forms(steps, rows, frozenset(schema.maps.get(tool, ())), told)
    well = [i for i, step in enumerate(steps) if step.outcome == OK]
    if before is None:
        forms, laws, rows = learn_forms(drafts, rows, cids, steps)
    else:
        forms, laws = before.forms, list(before.laws)
        rows = [with_laws(row, laws) for row in rows]
    items = item_tests(forms)
    rows = [{**row, **{item.name: item.holds(row) for item in items}} for row in rows] if items else rows
    table = Table(rows, favoured)
    passing = [(tool, s.outcome) in transient for s in steps]
    accidents = None
    if any(passing):
        kinds = [label if passes else "none" for label, passes in zip(labels, passing, strict=True)]
        accidents = grow(table, kinds, conversations=cids)
    lasting = [i for i, passes in enumerate(passing) if not passes]
    guard = grow_for_new(table, labels, lasting or range(len(labels)), cids, [one.facts for one in recorded])
    fine = {(n, v) for i in well for n, v in rows[i].items() if n.startswith("form(arg/")}
    refused = [
        i for i in lasting
        if steps[i].outcome != OK and any(n.startswith("known/") and v is False for n, v in rows[i].items())
    ]  # fmt: skip
    formed = [i for i in refused if all((n, v) in fine for n, v in rows[i].items() if n.startswith("form(arg/"))]
    unknown = Counter(labels[i] for i in formed or refused)
    score = _score(table, labels, lasting, cids)
    used = _used(laws, dumps(msgspec.to_builtins([forms, guard, accidents, items])))
    return ToolRules(tool, len(recorded), forms, guard, accidents, effects, items, used, dict(unknown), score)


def learn_forms(
    drafts: Sequence[Draft], rows: Sequence[Row], cids: Sequence[str], steps: Sequence[Step]
) -> tuple[dict[str, Form], list[Law], Sequence[Row]]:
    """The forms of a tool, its laws, and the rows with these. What successes follow from is known to the refusals, and
    the lists and sums in some slots of an answer to its other slots."""
    well = [i for i, step in enumerate(steps) if step.outcome == OK]
    laws: list[Law] = []
    refused = [i for i, step in enumerate(steps) if step.outcome != OK]
    new = argument_laws(rows, well, refused, [found for d in drafts if d.outcome != OK for found in _numbers(d)])
    forms: dict[str, Form] = {}
    for fine, rounds in ((True, 4), (False, 1)):
        chosen = [draft for draft in drafts if (draft.outcome == OK) == fine]
        solved = 0
        for number in range(rounds):
            rows = [with_laws(row, new) for row in rows] if new else rows
            laws += new
            passed = [rows[i] for i in _pick(well, 200)]
            for draft in chosen:
                forms[draft.label] = learn_form(draft, rows, cids, steps, passed, forms.get(draft.label), new)
            new = novel([law for draft in chosen for law in laws_in(draft.label, forms[draft.label])], rows, laws)
            before, solved = solved, sum(_is_solved(slot) for draft in chosen for slot in forms[draft.label].slots)
            if not new or number and solved == before:  # a second line follows from a first one, a third from both
                break
    rows = [with_laws(row, new) for row in rows] if new else rows
    return {draft.label: forms[draft.label] for draft in drafts}, laws + new, rows


def _is_solved(slot: Slot) -> bool:
    return slot.expression is not None and not slot.against


def _numbers(draft: Draft) -> Iterable[dict[int, Any]]:
    """The numbers in the gaps of a text, by row."""
    for targets in draft.slots.values():
        found = {i: number for i, t in zip(draft.at, targets, strict=True) if is_number(number := number_in(t))}
        if len(found) >= FEWEST_ROWS:
            yield found


def _used(laws: Sequence[Law], text: str) -> tuple[Law, ...]:
    """The laws whose name occurs in the rules, or in a law that is used."""
    kept: list[Law] = []
    for law in reversed(laws):
        if dumps(law.name)[1:-1] in text:
            kept.insert(0, law)
            text += dumps(msgspec.to_builtins(law.expression))
    return tuple(kept)


def item_tests(forms: Mapping[str, Form]) -> tuple[ItemTest, ...]:
    """The tests behind the errors that name one item of a list, as claims about the whole list."""
    found: dict[str, ItemTest] = {}
    for label, form in forms.items():
        for slot in form.slots:
            options = slot.expression.options if isinstance(slot.expression, First) else (slot.expression,)
            for option in options:
                if isinstance(option, FirstItem) and isinstance(option.tree, Split) and form.outcome != OK:
                    found.setdefault(label, ItemTest(f"any/{label}", option.list, option.tree))
    return tuple(found.values())


def _pick(places: Sequence[int], most: int) -> list[int]:
    return [places[k] for k in _spread(len(places), most)]


def _spread(size: int, most: int) -> list[int]:
    """At most `most` places in a list, evenly spread."""
    return list(range(size)) if size <= most else [int(k * size / most) for k in range(most)]


def learn_form(
    draft: Draft, rows: Sequence[Row], cids: Sequence[str], steps: Sequence[Step], passed: Sequence[Row] = (),
    before: Form | None = None, laws: Sequence[Law] = (),
) -> Form:  # fmt: skip
    """The form with a recipe for each slot that one was found and accepted for. Those of `before` are kept where they
    are always right, and where `laws`, which were found since then, come from the slot itself."""
    kept = _spread(len(draft.at), MOST_OF_FORM)
    places = [draft.at[k] for k in kept]
    apart = held_out([cids[i] for i in places])
    train, test = [k for k in range(len(kept)) if not apart[k]], [k for k in range(len(kept)) if apart[k]]
    if len(kept) < FEWEST_TO_HOLD_OUT or len(test) < 5 or not train:
        train, test = list(range(len(kept))), []
    refusals = passed if draft.outcome != OK else ()

    def table(at: Sequence[int]) -> Rows:
        return Rows([rows[places[k]] for k in at], [cids[places[k]] for k in at], refusals)

    parts = Parts(table(range(len(kept))), table(train), table(test), train, test)
    slots = []
    whole = {
        slot.path: slot for slot in (before.slots if before else ())
        if slot.support == len(kept) or all(law.of == slot.path for law in laws)
    }  # fmt: skip
    for path, all_targets in draft.slots.items():
        if path in whole or draft.open:
            slots.append(whole.get(path) or Slot(path, None))
            continue
        targets = [all_targets[k] for k in kept]
        slots.append(learn_slot(path, targets, parts, draft.template is not None))
    if not draft.open:
        of = {path: [all_targets[k] for k in kept] for path, all_targets in draft.slots.items()}
        slots = with_siblings(slots, of, parts, draft.template is not None)
    example = steps[draft.at[0]].content[:300]
    template = None if draft.open else draft.template
    if draft.open:
        slots = [Slot("", None)]
    call = dumps(dict(steps[draft.at[0]].arguments))[:300]
    return Form(draft.outcome, tuple(slots), template, draft.text, len(draft.at), call, example, draft.varied)


def _score(table: Table, labels: Sequence[str], at: Sequence[int], cids: Sequence[str]) -> dict[str, float]:
    """How often a guard that was grown without every fourth conversation is right on those."""
    kept = held_out(cids)
    train, test = [i for i in at if not kept[i]], [i for i in at if kept[i]]
    if len(train) < 10 or len(test) < 5 or len({labels[i] for i in at}) < 2:
        return {}
    tree = grow(table, labels, train, checks=True)
    right = sum(leaf_of(tree, table.rows[i])[0].best()[0] == labels[i] for i in test)
    return {"guard": right / len(test), "n": float(len(test))}
