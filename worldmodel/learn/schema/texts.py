"""Answers in sentences, read as objects: what stands in their gaps are fields, so that texts show records as well."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from worldmodel.derive.packing import ITEMS
from worldmodel.derive.situation import Row, flat_arguments
from worldmodel.derive.templates import BETWEEN, GAP, SAYS, Sentence, number_in, read
from worldmodel.derive.values import dumps, is_scalar, parse, shown
from worldmodel.learn.forms import Draft, draft_texts
from worldmodel.steps import OK, Step, content_leaves

Conversations = Mapping[str, Sequence[Step]]
Told = tuple[str, Step, Row]
"""A conversation, an answer in it, and values that the conversation had before."""
FEWEST, SHARE = 3, 0.02
MOST = 600
SHORT = 3
"""Numbers with fewer digits are no identifiers."""
MOST_SEEN = 300
"""Values of earlier answers, of which a sentence may have one."""
_WORD = re.compile(r"[^\W\d_][\w-]+")
_END = re.compile(r"[.!?;\n]")


def learn_texts(conversations: Conversations) -> dict[str, tuple[Sentence, ...]]:
    """By tool, the sentences of its successes, if these are mostly texts that say more than what the call says.

    The words of a sentence are kept and said again, so at least `FEWEST` conversations must have it: what only one
    conversation says, however often, can be about one person.
    """
    answers, said = told(conversations)
    found = {}
    for tool, of_tool in answers.items():
        texts = [one for one in of_tool if isinstance(parse(one[1].content), str)]
        if len(texts) >= max(FEWEST, 0.5 * len(of_tool)):
            sentences = _sentences(texts, said)
            if sentences:
                found[tool] = sentences
    return found


def told(conversations: Conversations, arguments: bool = False) -> tuple[dict[str, list[Told]], Counter[str]]:
    """The successes by tool, each text with what the answers before it had shown (and, with `arguments`, what the calls
    had said); and how often calls have a text as an argument."""
    answers: dict[str, list[Told]] = defaultdict(list)
    said: Counter[str] = Counter()
    for cid, steps in conversations.items():
        shown_: dict[str, None] = {}
        for step in steps:
            said.update(v for _, v in flat_arguments(step.arguments) if isinstance(v, str))
            if step.outcome == OK and len(answers[step.tool]) < MOST:
                is_text = isinstance(parse(step.content), str)
                seen = {f"seen/{v}": v for v in list(shown_)[-MOST_SEEN:]} if is_text else {}
                answers[step.tool].append((cid, step, seen))
            own = [*(flat_arguments(step.arguments) if arguments else ()), *content_leaves(step.content)]
            shown_.update(dict.fromkeys(v for _, v in own if isinstance(v, str) and 3 <= len(v) <= 60))
    return dict(answers), said


def read_all(conversations: Conversations, texts: Mapping[str, Sequence[Sentence]]) -> Conversations:
    """The conversations with objects in place of the sentences that are read as such."""
    if not texts:
        return conversations
    return {cid: [_read(step, texts.get(step.tool, ())) for step in steps] for cid, steps in conversations.items()}


def _read(step: Step, sentences: Sequence[Sentence]) -> Step:
    body = parse(step.content) if sentences and step.outcome == OK else None
    found = read(sentences, body) if isinstance(body, str) else None
    return step if found is None else replace(step, content=dumps(found))


def sentences_of(texts: Sequence[Told], said: Mapping[str, int]) -> tuple[Sentence, ...]:
    """The sentences of texts. With each stand its conversation and what else the conversation has said; `said` counts
    the texts that calls have as arguments."""
    return tuple(sentence for sentence, _ in _usual(texts, said))


def _sentences(texts: Sequence[Told], said: Mapping[str, int]) -> tuple[Sentence, ...]:
    """The same, if they say more than what the calls say."""
    found = _usual(texts, said)
    news = any(echoes < len(sentence.names) for sentence, echoes in found)
    if not (news or len(found) > 1) or not any(sentence.names for sentence, _ in found):
        return ()
    return tuple(sentence for sentence, _ in found)


def _usual(texts: Sequence[Told], said: Mapping[str, int]) -> list[tuple[Sentence, int]]:
    """The usual sentences, the longest first, and how many of the gaps of each repeat an argument."""
    steps = [step for _, step, _ in texts]
    rows: list[Row] = [{**{f"arg/{n}": v for n, v in flat_arguments(s.arguments)}, **seen} for _, s, seen in texts]
    drafts = draft_texts(OK, range(len(steps)), [parse(step.content) for step in steps], rows)
    fewest = max(FEWEST, SHARE * len(steps))
    usual = [d for d in drafts if not d.open and isinstance(d.template, str) and len(d.at) >= fewest]
    usual = [d for d in usual if len({texts[i][0] for i in d.at}) >= FEWEST]
    usual = [d for d in usual if d.template.count(GAP) == len(d.slots)]  # a binary text can have the mark of a gap
    told = [_echoes(draft, rows) for draft in usual]
    found = [(_sentence(draft, names, said), len(names)) for draft, names in zip(usual, told, strict=True)]
    return sorted(found, key=lambda one: (-len(one[0].template.replace(GAP, "")), one[0].template))


def _echoes(draft: Draft, rows: Sequence[Row]) -> dict[str, str]:
    """The gaps that repeat an argument, with the name of that argument."""
    found: dict[str, str] = {}
    for gap, values in draft.slots.items():
        hits: Counter[str] = Counter()
        for i, value in zip(draft.at, values, strict=True):
            hits.update(n[4:] for n, v in rows[i].items()
                        if n.startswith("arg/") and is_scalar(v) and v is not None and shown(v) == value)  # fmt: skip
        name, n = max(hits.items(), key=lambda pair: (pair[1], pair[0]), default=("", 0))
        if n >= 0.95 * len(values) and name not in found.values():
            found[gap] = name
    return found


def _sentence(draft: Draft, echoes: Mapping[str, str], said: Mapping[str, int]) -> Sentence:
    names = names_of_gaps(draft.template, echoes)
    columns = [[str(v) for v in draft.slots[str(number)]] for number in range(len(names))]
    return Sentence(draft.template, names, tuple(kind_of_gap(column, said) for column in columns))


def names_of_gaps(template: str, echoes: Mapping[str, str] = MappingProxyType({})) -> tuple[str, ...]:
    """A name for each gap of a template: the argument that it repeats (`echoes`, by the gap's number), else the word
    that stands before it in its sentence, else the one after it."""
    pieces, names = template.split(GAP), list[str]()
    for number, (before, after) in enumerate(zip(pieces, pieces[1:], strict=False)):
        words: list[str] = _WORD.findall(_END.split(before)[-1])[-1:] or _WORD.findall(_END.split(after)[0])[:1]
        name = echoes.get(str(number)) or (words[0].lower() if words else f"value{number}")
        names.append(name if name not in (*names, SAYS, ITEMS) else f"{name}{number}")
    return tuple(names)


def kind_of_gap(values: Sequence[str], said: Mapping[str, int]) -> str:
    """How the values of a gap are read. `said` counts the texts that calls have as arguments: these stay texts, unless
    they are short numbers, which are equal to others by chance."""
    if any(BETWEEN in value for value in values) and max(map(len, values)) <= MOST:
        parts = [part for value in values for part in value.split(BETWEEN)]
        return "list" if all(part and " " not in part for part in parts) else "text"
    numeric = all((number := number_in(value)) is not None and shown(number) == value for value in values)
    ids = sum(value in said and len(value) >= SHORT for value in values)
    return "number" if numeric and ids < FEWEST else "text"
