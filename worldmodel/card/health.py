"""Parts of the card: calibration of support, memorisation, and tools with too few traces."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from worldmodel.card.drift import Conversations, by_tool
from worldmodel.card.measures import Judged
from worldmodel.generate.shapes import Read, Shapes, as_json, texts_of
from worldmodel.steps import OK, Step

BINS = 5
SCARCE_CALLS = 20
SCARCE_CLASS = 5
SCARCE_ARGUMENT = 3


def right(judged: Judged) -> bool:
    """Whether an answer is right: exact if the traces determine it, otherwise with the right outcome."""
    return judged.exact if judged.derivable else judged.outcome == judged.truth.outcome


# ----- support


def reliability(judged: Iterable[Judged]) -> dict[str, Any]:
    """Return support against correctness, in bins of equal size. `error` is the mean gap, weighted by size."""
    answered = sorted((j.support, right(j)) for j in judged if j.answer is not None and j.provenance)
    rows = []
    for k in range(BINS):
        some = answered[k * len(answered) // BINS : (k + 1) * len(answered) // BINS]
        if some:
            said = sum(s for s, _ in some) / len(some)
            rows.append({"n": len(some), "support": said, "right": sum(r for _, r in some) / len(some)})
    gaps = [row["n"] * abs(row["support"] - row["right"]) for row in rows]
    return {"bins": rows, "error": sum(gaps) / len(answered) if answered else None}


# ----- memorisation


def memorisation(
    judged: Sequence[Judged], held_out: Conversations, shapes: Shapes, read: Read = as_json
) -> dict[str, int]:
    """Return texts in generated answers that belong to one training or one held-out conversation and that did not occur
    before the call. No answer may repeat a training conversation. A held-out conversation, which no world has seen, can
    be repeated by chance where few values are possible. `read` returns the value of an answer (`Layout.read`)."""
    owners: dict[str, set[str]] = defaultdict(set)
    for conversation_id, steps in held_out.items():
        for text in {t for step in steps for t in texts_of(step, read)}:
            owners[text].add(conversation_id)
    trained = others = answers = 0
    for j in judged:
        if j.provenance != "generated" or j.answer is None or j.answer.outcome != OK:
            continue
        answers += 1
        known = {t for step in j.before for t in texts_of(step, read)}
        known |= set(texts_of(Step(j.truth.tool, j.truth.arguments, "")))
        fresh = [t for t in texts_of(j.answer, read) if t not in known]
        trained += any(shapes.is_private(t) for t in fresh)
        others += any(len(owners.get(t, ())) == 1 and t not in set(texts_of(j.truth, read)) and not _common(t, shapes)
                      for t in fresh)  # fmt: skip
    return {"answers": answers, "repeat_a_trained_conversation": trained, "repeat_a_held_out_conversation": others}


def _common(text: str, shapes: Shapes) -> bool:
    """Whether a text may be shared by records."""
    for fields in shapes.fields.values():
        for values in fields.values():
            if any(value == text for value, _ in values.common):
                return True
    return any(_holds(values, text) for of_tool in shapes.bodies.values() for values in of_tool.values())


def _holds(values: Any, text: str) -> bool:
    if any(value == text for value, _ in values.common):
        return True
    inner = [*values.fields.values(), *([values.items] if values.items else [])]
    return any(_holds(one, text) for one in inner)


# ----- coverage


def scarce(trained: Conversations) -> list[str]:
    """Tools, outcomes and arguments with too few traces to learn from, in sentences."""
    said = []
    for tool, steps in sorted(by_tool(trained).items()):
        if len(steps) < SCARCE_CALLS:
            said.append(f"{tool}: only {len(steps)} recorded calls; about {SCARCE_CALLS} are needed")
            continue
        outcomes = Counter(step.outcome for step in steps)
        few = [f"{name} ({n})" for name, n in sorted(outcomes.items()) if n < SCARCE_CLASS]
        if few:
            said.append(f"{tool}: outcomes seen fewer than {SCARCE_CLASS} times: {', '.join(few)}")
        names = Counter(name for step in steps for name in step.arguments)
        rare = [f"{name} ({n})" for name, n in sorted(names.items()) if n < SCARCE_ARGUMENT]
        if rare:
            said.append(f"{tool}: arguments seen fewer than {SCARCE_ARGUMENT} times: {', '.join(rare)}")
    return said

