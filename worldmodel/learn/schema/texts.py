"""Answers in sentences, read as objects: what stands in their gaps are fields, so that texts show records as well."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from worldmodel.derive.situation import Row, flat_arguments
from worldmodel.derive.templates import BETWEEN, GAP, SAYS, Sentence, number_in, read
from worldmodel.derive.values import dumps, is_scalar, parse, shown
from worldmodel.learn.forms import Draft, draft_texts
from worldmodel.steps import OK, Step, content_leaves

Conversations = Mapping[str, Sequence[Step]]
FEWEST, SHARE = 3, 0.02
MOST = 600
MOST_SEEN = 300
"""Values of earlier answers, of which a sentence may have one."""
_WORD = re.compile(r"[^\W\d_][\w-]+")
_END = re.compile(r"[.!?;\n]")


def learn_texts(conversations: Conversations) -> dict[str, tuple[Sentence, ...]]:
    """By tool, the sentences of its successes, if these are mostly texts that say more than what the call says.

    The words of a sentence are kept and said again, so at least `FEWEST` conversations must have it: what only one
    conversation says, however often, can be about one person.
    """
    answers: dict[str, list[tuple[str, Step, Row]]] = defaultdict(list)
    said: Counter[str] = Counter()
    for cid, steps in conversations.items():
        shown_: dict[str, None] = {}
        for step in steps:
            said.update(v for _, v in flat_arguments(step.arguments) if isinstance(v, str))
            if step.outcome == OK and len(answers[step.tool]) < MOST:
                is_text = isinstance(parse(step.content), str)
                seen = {f"seen/{v}": v for v in list(shown_)[-MOST_SEEN:]} if is_text else {}
                answers[step.tool].append((cid, step, seen))
            told = (v for _, v in content_leaves(step.content) if isinstance(v, str) and 3 <= len(v) <= 60)
            shown_.update(dict.fromkeys(told))
    found = {}
    for tool, of_tool in answers.items():
        texts = [one for one in of_tool if isinstance(parse(one[1].content), str)]
        if len(texts) >= max(FEWEST, 0.5 * len(of_tool)):
            sentences = _sentences(texts, said)
            if sentences:
                found[tool] = sentences
    return found


def read_all(conversations: Conversations, texts: Mapping[str, Sequence[Sentence]]) -> Conversations:
    """The conversations with objects in place of the sentences that are read as such."""
    if not texts:
        return conversations
    return {cid: [_read(step, texts.get(step.tool, ())) for step in steps] for cid, steps in conversations.items()}


def _read(step: Step, sentences: Sequence[Sentence]) -> Step:
    body = parse(step.content) if sentences and step.outcome == OK else None
    found = read(sentences, body) if isinstance(body, str) else None
    return step if found is None else replace(step, content=dumps(found))


def _sentences(texts: Sequence[tuple[str, Step, Row]], said: Mapping[str, int]) -> tuple[Sentence, ...]:
    steps = [step for _, step, _ in texts]
    rows: list[Row] = [{**{f"arg/{n}": v for n, v in flat_arguments(s.arguments)}, **seen} for _, s, seen in texts]
    drafts = draft_texts(OK, range(len(steps)), [parse(step.content) for step in steps], rows)
    fewest = max(FEWEST, SHARE * len(steps))
    usual = [d for d in drafts if not d.open and isinstance(d.template, str) and len(d.at) >= fewest]
    usual = [d for d in usual if len({texts[i][0] for i in d.at}) >= FEWEST]
    usual = [d for d in usual if d.template.count(GAP) == len(d.slots)]  # a binary text can have the mark of a gap
    told = [_echoes(draft, rows) for draft in usual]
    if not any(len(names) < len(draft.slots) for draft, names in zip(usual, told, strict=True)) and len(usual) < 2:
        return ()
    if not any(draft.slots for draft in usual):
        return ()
    found = [_sentence(draft, names, said) for draft, names in zip(usual, told, strict=True)]
    return tuple(sorted(found, key=lambda s: (-len(s.template.replace(GAP, "")), s.template)))


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
    pieces = draft.template.split(GAP)
    names: list[str] = []
    kinds: list[str] = []
    for number, (before, after) in enumerate(zip(pieces, pieces[1:], strict=False)):
        values = [str(v) for v in draft.slots[str(number)]]
        name = echoes.get(str(number)) or _name(before, after, number)
        names.append(name if name not in (*names, SAYS) else f"{name}{number}")
        kinds.append(_kind(values, said))
    return Sentence(draft.template, tuple(names), tuple(kinds))


def _name(before: str, after: str, number: int) -> str:
    """The word that stands before a gap in its sentence, else the one after it."""
    words: list[str] = _WORD.findall(_END.split(before)[-1])[-1:] or _WORD.findall(_END.split(after)[0])[:1]
    return words[0].lower() if words else f"value{number}"


def _kind(values: Sequence[str], said: Mapping[str, int]) -> str:
    if any(BETWEEN in value for value in values) and max(map(len, values)) <= MOST:
        parts = [part for value in values for part in value.split(BETWEEN)]
        return "list" if all(part and " " not in part for part in parts) else "text"
    numeric = all(number_in(value) is not None for value in values)
    return "number" if numeric and sum(value in said for value in values) < FEWEST else "text"
