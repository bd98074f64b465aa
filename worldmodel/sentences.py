"""Rules in plain sentences, with the counts behind them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from worldmodel.derive.expressions import (
    JOINS,
    Absent,
    Append,
    Build,
    Call,
    Choice,
    Concat,
    Const,
    Each,
    Expression,
    First,
    FirstItem,
    Items,
    Linear,
    Lookup,
    Product,
    Quotient,
    Remove,
    Select,
    Source,
    Text,
)
from worldmodel.derive.functions import FUNCTIONS
from worldmodel.derive.rules import OWN, Effect, Form, Rules, ToolRules, show
from worldmodel.derive.schema import CLOCK, FOLLOWED, KeyPart
from worldmodel.derive.templates import GAP, NUMBER_GAP
from worldmodel.derive.trees import AS_AMOUNT, COMPOUND, Leaf, Split, Test, Tree, parts_of
from worldmodel.derive.values import dumps

ODD = {"missing": "a missing argument", "type": "an argument of another type", "wanted": "the type that is expected",
       "option": "an argument that is none of its options"}  # fmt: skip
OPS = {"=": "is", "<": "is less than", "<=": "is at most", ">": "is more than", "in": "is in",
       "has": "has", "part": "is a part of"}  # fmt: skip


def describe_rules(rules: Rules, tool: str | None = None) -> Iterator[str]:
    """All rules, or those of one tool, a line each."""
    for name, found in rules.tools.items():
        if tool is None or name == tool:
            yield from describe_tool(found)
    if tool is None:
        yield "RECORDS"
        for type_ in sorted({site.type for site in rules.schema.sites}):
            sites = [site for site in rules.schema.sites if site.type == type_]
            keys = ", ".join(map(_key_part, sites[0].keys)) or "one a session"
            places = ", ".join(f"{s.tool}{':' if s.path else ''}{s.path}" for s in sites)
            yield f"  {type_}: key {keys}; shown by {places}"


def _key_part(part: KeyPart) -> str:
    kind, _, name = part.source.partition("/")
    return source(part.source) if kind == "now" else name or "its key"


def describe_tool(rules: ToolRules) -> Iterator[str]:
    score = f", guard right on {rules.held_out['guard']:.0%} held out" if rules.held_out else ""
    yield f"{rules.tool} ({rules.n} calls{score})"
    if rules.accidents is not None:
        yield "  passes by itself:"
        yield from _tree(rules.accidents, "    ")
    yield "  which answer:"
    yield from _tree(rules.guard, "    ")
    for name, values in rules.untried.items():
        yield f"  never seen to succeed where {source(name)} is {' or '.join(map(show, values))}"
    for law in rules.laws:
        counts = f"({law.support} right, {law.against} wrong)"
        yield f"  {source(law.name)}: {expression(law.expression)} {counts}"
    for label, form in rules.forms.items():
        yield from _form(label, form)
    for effect in rules.effects:
        yield _effect(effect)


def _tree(tree: Tree, indent: str) -> Iterator[str]:
    if isinstance(tree, Leaf):
        yield indent + _leaf(tree)
        return
    assert isinstance(tree, Split)
    if isinstance(tree.yes, Leaf):
        yield f"{indent}if {test(tree.test)}: {_leaf(tree.yes)}"
    else:
        yield f"{indent}if {test(tree.test)}:"
        yield from _tree(tree.yes, indent + "  ")
    if isinstance(tree.no, Leaf):
        yield f"{indent}else: {_leaf(tree.no)}"
    else:
        yield f"{indent}else:"
        yield from _tree(tree.no, indent + "  ")


def _leaf(leaf: Leaf) -> str:
    if not leaf.counts:
        return "nothing"
    order = sorted(leaf.counts.items(), key=lambda pair: -pair[1])
    said = ", ".join(f"{label} {n}" for label, n in order[:6])
    seen = f" (e.g. {leaf.seen_in[0]})" if leaf.seen_in else ""
    return f"{said} of {leaf.n}{seen}"


def _form(label: str, form: Form) -> Iterator[str]:
    shown = form.template
    varied = ", its class is that of its text" if form.varied else ""
    if shown is not None:
        text = shown if isinstance(shown, str) else dumps(shown)
        for number in range(len(form.slots)):
            found = NUMBER_GAP if NUMBER_GAP in text else GAP
            text = text.replace(found, f"{{{number}}}", 1).replace(dumps(found)[1:-1], f"{{{number}}}", 1)
        yield f"  answer {label} ({form.n} seen{varied}): {text[:200]}"
    else:
        yield f"  answer {label} ({form.n} seen)"
    for slot in form.slots:
        name = slot.path or "the whole"
        score = "" if slot.held_out is None else f", {slot.held_out:.0%} right held out"
        if slot.expression is None:
            yield f"    {name}: open, the model's{' (the best recipe:' + score[1:] + ')' if score else ''}"
        else:
            said = expression(slot.expression)
            yield f"    {name}: {said} ({slot.support} right, {slot.against} wrong{score})"


def _effect(effect: Effect) -> str:
    late = f", shown from the second read of {', '.join(effect.lag)} on" if effect.lag else ""
    known = "something that is not known" if effect.support == 0 else expression(effect.expression)
    counts = f" ({effect.support} right, {effect.against} wrong{late})"
    return f"  changes {effect.field} of {effect.link} to {known}{counts}"


def test(claim: Test) -> str:
    left = source(claim.left)
    if claim.left.startswith("at/") and claim.against_source:
        return f"{left} was before {source(str(claim.right))}"
    if claim.op == "is":
        return f"{left}"
    if claim.op in ("known", "absent"):
        return f"{left} is {claim.op}"
    right = source(claim.right) if claim.against_source else dumps(claim.right)
    return f"{left} {OPS[claim.op]} {right}"


def source(name: str) -> str:
    """A source's name in words."""
    if name.endswith(AS_AMOUNT):
        return f"{source(name.removesuffix(AS_AMOUNT))} as a number"
    if name.startswith(COMPOUND):
        made, left, right = parts_of(name)
        if made == "is":
            return f"1 where {source(left)} is {right!r}, else 0"
        if made == "days":
            return f"the days from {source(right)} to {source(left)}"
        if made == "into":
            return f"where {source(right)} leads from {source(left)}"
        return f"{source(left)} {made} {source(right)}"
    if name.startswith("matches("):
        return f"how many items {source(name[len('matches(') : -1])} has before it is cut"
    inner = re.fullmatch(r"(len|sum|min|max|each|shape|form|prefix|type|said|has|all|items)\((.*)\)", name)
    if inner:
        words = {"len": "the length of", "said": "the conversation said", "has": "there is", "each": "each",
                 "all": "all are known:", "items": "the items of"}  # fmt: skip
        return f"{words.get(inner[1], 'the ' + inner[1] + ' of')} {source(inner[2])}"
    kind, _, rest = name.partition("/")
    if kind == "law":
        label, _, field = rest.partition("/")
        return f"what {source(rest)} must be" if rest.startswith(("arg/", "sum(")) else f"the {field} of answer {label}"
    if kind == "opt":
        return f"the number of option {rest}"
    if kind == "any":
        return f"some item is one that {rest} is about"
    if kind == "arg":
        return f"argument {rest}"
    if kind == "odd":
        return ODD.get(rest, rest)
    if name.startswith(OWN):
        return f"{name[len(OWN) :]} of this answer"
    if kind in ("rec", "pick"):
        link, _, field = rest.partition("/")
        return f"{field or 'the answer'} of {link}"
    if kind == "ans":
        return f"{rest or 'the whole'} of the answer"
    if kind == "new":
        return f"{rest} of what is created"
    if kind == "now" and rest.startswith(FOLLOWED):
        return f"where {rest[1:].partition(':')[0]} has led"
    if kind == "now":
        return "the day that it is" if rest == CLOCK else f"the latest {rest}"
    if kind == "at":
        return f"the last success of {rest}"
    if kind == "all":
        return f"all known records of {rest}"
    if kind == "view":
        return f"the list {rest} as an earlier call showed it, with what has changed since".replace("list  ", "list ")
    if kind == "among":
        return f"the list {rest} of the records that all conversations share".replace("list  ", "list ")
    if kind == "known":
        return f"{rest} is known"
    if kind == "fact":
        return f"{rest} is a fact that all conversations share"
    if kind == "missing":
        return f"the earlier refusal of {rest}"
    if kind in ("did", "did_on"):
        return f"successes of {rest}{' on the same' if kind == 'did_on' else ''}"
    if kind == "used":
        return f"argument {rest} was used before"
    if kind == "first":
        argument, _, field = rest.partition("/")
        return f"{field} of the first answer to this {argument}"
    if kind == "refused":
        return f"refusals as {rest} on the same"
    if kind == "told":
        tool, _, argument = rest.partition("/")
        return f"{argument} of the last {tool}"
    if kind == "last":
        tool, _, field = rest.partition("/")
        return f"{field} in the last answer of {tool}"
    if kind == "since":
        return f"calls since the last {rest}"
    words = {"n/same": "times this call was made", "n/tool": "calls of this tool", "n/written": "writes so far",
             "n/same_since_write": "times this call was made since a write",
             "prev/same": "the last answer to this call",
             "prev/tool": "the tool's last answer", "prev/any": "the last answer"}  # fmt: skip
    return words.get(name, name)


def expression(e: Expression) -> str:
    """An expression in words."""
    match e:
        case Const(value):
            return dumps(value)[:80]
        case Absent():
            return "left out"
        case Source(name):
            return source(name)
        case Text(parts):
            return "the text " + " + ".join(expression(part) for part in parts)
        case Linear(terms, constant):
            said = " + ".join(source(n) if f == 1 else f"{f:g} x {source(n)}" for f, n in terms)
            return f"{said}{f' + {constant:g}' if constant else ''}"
        case Product(left, right, factor, constant):
            first = f"{factor:g} x " if factor != 1 else ""
            return f"{first}{source(left)} x {source(right)}{f' + {constant:g}' if constant else ''}"
        case Quotient(left, right, _):
            return f"{source(left)} / {source(right)}"
        case Lookup(of, table):
            some = list(table.items())[:4]
            said = ", ".join(f"{key.replace(JOINS, ' and ')}: {dumps(value)}" for key, value in some)
            return f"by {' and '.join(map(source, of))} from a table of {len(table)} ({said})"
        case Append(name, item, _, once):
            return f"{source(name)} with {expression(item)} added{' where it is not there' if once else ''}"
        case Items(members):
            return f"a list of {', '.join(map(expression, members))}"
        case Concat(name, tail):
            return f"{source(name)} followed by {expression(tail)}"
        case Remove(name, item):
            return f"{source(name)} without {source(item)}"
        case Call(function, of):
            return FUNCTIONS[function].said.format(*map(expression, of))
        case Select():
            return _selection(e)
        case Build(fields):
            return "{" + ", ".join(f"{n}: {expression(inner)}" for n, inner in fields.items()) + "}"
        case Each(name, item):
            return f"for each of {source(name)} {expression(item)}"
        case First(options):
            return ", or if unknown ".join(expression(option) for option in options)
        case FirstItem(name, tree, field):
            return f"{field} of the first of {source(name)} where {_flat(tree)}"
        case Choice(tree, options):
            used = {label for leaf in _leaves(tree) for label in leaf.counts if label.isdigit()}
            named = [expression(options[int(k)]) for k in sorted(used, key=int)]
            return f"by {_flat(tree)} one of: " + "; ".join(named[:6])
    return str(e)


def _selection(e: Select) -> str:
    said = f"the items of {source(e.list)}"
    if e.where:
        words = {**OPS, "holds": "contains", "starts": "starts with", "holds_any_case": "contains, in any case,",
                 ">": "is more than", ">=": "is at least"}  # fmt: skip
        said += " whose " + " and ".join(f"{c.field or 'value'} {words[c.op]} {expression(c.value)}" for c in e.where)
    if e.order:
        said += f", by {'falling' if e.falling else 'rising'} {e.order}"
    if e.skip is not None:
        said += f", after {expression(e.skip)}"
    if e.take is not None:
        said += f", at most {expression(e.take)}"
    if e.only or e.fields:
        said += f", of each {e.only or ', '.join(e.fields)}"
    return said


def _leaves(tree: Tree) -> Iterator[Leaf]:
    if isinstance(tree, Leaf):
        yield tree
    else:
        yield from _leaves(tree.yes)
        yield from _leaves(tree.no)


def _flat(tree: Tree) -> str:
    if isinstance(tree, Leaf):
        return "always"
    return f"[{test(tree.test)}{' ...' if isinstance(tree.yes, Split) or isinstance(tree.no, Split) else ''}]"
