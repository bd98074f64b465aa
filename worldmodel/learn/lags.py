"""Lists that show for a while what was before the last write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import msgspec

from worldmodel.derive.layout import Layout
from worldmodel.derive.schema import NEXT_CALL, UNTIL_SHOWN, Schema
from worldmodel.derive.values import freeze
from worldmodel.learn.conversations import Conversations
from worldmodel.learn.rows import Recorded
from worldmodel.steps import OK

FEWEST = 3
SHARE = 0.3
"""A lag must explain this share of the lists after a write that differ from the store."""
Replayed = Mapping[str, Sequence[Recorded]]
Replay = Callable[[Conversations, Schema], Replayed]


def learn_lags(conversations: Conversations, recorded: Replayed, schema: Schema, replay: Replay) -> dict[str, str]:
    """For each tool whose lists lag behind writes, how long (`Schema.lags`). `recorded` are the conversations as they
    went in a store without lags; `replay` repeats some of them with another schema."""
    layout = Layout(schema)
    right, wrong, where = _judged(layout, recorded)
    doubtful = [tool for tool, n in wrong.items() if n >= FEWEST]
    found: dict[str, tuple[int, str]] = {tool: (right[tool], "") for tool in doubtful}
    some = {cid: steps for cid, steps in conversations.items() if any(cid in where[tool] for tool in doubtful)}
    others = {cid: calls for cid, calls in recorded.items() if cid not in some}
    for lag in (UNTIL_SHOWN, NEXT_CALL) if some else ():
        lagging = msgspec.structs.replace(schema, lags=dict.fromkeys(doubtful, lag))
        hits, _, _ = _judged(layout, {**others, **replay(some, lagging)})
        for tool in doubtful:
            enough = hits[tool] - right[tool] >= max(FEWEST, SHARE * wrong[tool])
            if enough and hits[tool] > found[tool][0]:
                found[tool] = hits[tool], lag
    return {tool: lag for tool, (_, lag) in sorted(found.items()) if lag}


def _judged(layout: Layout, recorded: Replayed) -> tuple[Counter[str], Counter[str], dict[str, set[str]]]:
    """By tool: how many lists after a write equal the store's, how many do not, and in which conversations they are."""
    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    where: dict[str, set[str]] = {}
    for cid, calls in recorded.items():
        for one in calls:
            tool = one.step.tool
            if one.step.outcome != OK or not one.row.get("n/written"):
                continue
            for view in layout.schema.views.get(tool, ()):
                known = one.row.get(f"view/{view.path}", one.row.get(f"among/{view.path}"))
                shown = view.items(layout.read(tool, one.step.content))
                if known is None or shown is None:
                    continue
                same = freeze(known) == freeze(shown)
                (right if same else wrong)[tool] += 1
                where.setdefault(tool, set()).add(cid)
    return right, wrong, where
