"""Real captures of instrumentation libraries, where they are at hand: every fact comes back, and no other.

They lie beside the repository (``../shared/data/dialects``), not in it; each has the ``expected.json`` of a
perfect reader. Where that is absent this test cannot say anything, in CI too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from development_data import CORPORA, need_corpora

from ingest.lake import Lake


def plain(value: Any) -> Any:
    """JSON text as its value, text without outer space, whole numbers as integers."""
    if isinstance(value, str):
        try:
            return plain(json.loads(value)) if value.strip()[:1] in ("{", "[") else value.strip()
        except ValueError:
            return value.strip()
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def facts(messages: list[dict[str, Any]], ignored: set[str]) -> list[dict[str, Any]]:
    """Messages, calls and results, one each, in order."""
    out: list[dict[str, Any]] = []
    names = {c.get("id"): c["name"] for m in messages for c in m.get("tool_calls") or ()}
    for m in (m for m in messages if m["role"] not in ignored):
        out += [{"kind": "call", **c} for c in m.get("tool_calls") or ()]
        if m["role"] == "tool":
            name = m.get("name") or names.get(m.get("tool_call_id"))
            out.append({**m, "kind": "result", "name": name, "is_error": bool(m.get("is_error"))})
        elif m.get("content"):
            out.append({**m, "kind": m["role"]})
    return out


def agrees(want: dict[str, Any], got: dict[str, Any]) -> bool:
    """Whether a fact is the expected one; what a library did not emit is not asked for."""
    same = want["kind"] == got["kind"] and want.get("name") == got.get("name")
    if not same or want["kind"] == "call":
        return same and ("arguments" not in want or plain(want["arguments"]) == plain(got.get("arguments")))
    if want.get("is_error") != got.get("is_error", want.get("is_error")):
        return False
    expected, content = plain(want.get("content")), plain(got.get("content"))
    if want.get("_match") == "contains" or want.get("_evidence"):
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        return str(expected) in text
    return expected is None or expected == content


def difference(corpus: Path, lake: Lake) -> str:
    """What a corpus's conversations lack or have too much, in a word; "" if nothing."""
    expected = json.loads((corpus / "expected.json").read_text())
    lake.ingest([p for name in ("traces", "logs") if (p := corpus / f"{name}.jsonl").exists()])
    ignored = {r for c in expected for r in c.get("ignore_roles", ())}
    got = [facts([dict(m) for m in c.messages], ignored) for c in ([] if lake.is_empty() else lake.conversations())]
    for conversation in expected:
        want = facts(conversation["messages"], ignored)
        same = [g for g in got if len(g) == len(want) and all(map(agrees, want, g))]
        if want and not same:
            return f"{conversation.get('conversation_hint')!r} was not recovered"
        if want:
            got.remove(same[0])
    return f"{len(got)} conversations too many" if any(got) else ""


def test_every_corpus_is_recovered_completely(tmp_path: Path) -> None:
    need_corpora()
    names = sorted(p.name for p in CORPORA.iterdir() if (p / "expected.json").exists())
    found = {name: difference(CORPORA / name, Lake.create(tmp_path / name)) for name in names}
    assert not {name: what for name, what in found.items() if what}
