"""How one API writes its answers: records, lists, results of writes, errors."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from training.models.edits import dumps

Shown = dict[str, Any]
CODES = {
    "unavailable": ("timeout", "unavailable", "upstream_error", "try_again", "internal_error", "busy", "gateway"),
    "throttled": ("rate_limited", "throttled", "quota_exceeded", "too_many_requests", "slow_down"),
    "not_found": ("not_found", "unknown_id", "missing", "no_such_record", "does_not_exist"),
    "invalid": ("invalid_argument", "validation_error", "bad_request", "malformed", "invalid"),
    "conflict": ("conflict", "precondition_failed", "wrong_state", "not_allowed_now", "illegal_state"),
    "confirm": ("confirmation_required", "confirm", "needs_confirmation", "unconfirmed"),
    "version": ("version_mismatch", "stale_version", "etag_mismatch", "out_of_date"),
    "forbidden": ("forbidden", "permission_denied", "unauthorized", "access_denied"),
    "exists": ("already_exists", "duplicate", "exists"),
    "in_use": ("in_use", "has_dependents", "referenced"),
    "unknown_tool": ("unknown_tool", "no_such_tool"),
}
"""By reason of an error, the names that APIs give it."""


ENTRIES = (
    "{t}: {i}", "{t} ({i})", "{i} {t}", "{i} - {t}", "object", "object", "short", "text",
    "{t} {i}", "{v} {t} {i}", "{i} {t} {v}", "{i} | {t} | {v}", "{t}, {v} ({i})", "{v}: {t} {i}",
)  # fmt: skip
"""Entries of lists: t a title, i an id, v the value of another field."""


class Shapes:
    """One API's style. All choices are drawn once."""

    def __init__(self, rng: random.Random) -> None:
        self.codes = {reason: rng.choice(names) for reason, names in CODES.items()}
        if rng.random() < 0.15:
            self.codes = {reason: name.upper() for reason, name in self.codes.items()}
        self.read = rng.choice(("plain", "plain", "plain", "data", "noun", "result", "nested", "text"))
        self.write = rng.choice(("record", "change", "ok", "noun", "status", "text", "done"))
        self.list_key = rng.choice(("results", "items", "data", "plural", "plural", "bare", "count first"))
        self.entry = rng.choice(ENTRIES)
        self.rest = rng.choice(("more", "has_next", "next", "total", "left", "pages"))
        self.error_style = rng.choice(("code", "code", "text", "nested", "flag", "number", "prefixed"))
        self.numbers = {reason: rng.randint(400, 599) for reason in CODES}
        self.nest = rng.choice(("details", "attributes", "info", "fields"))

    def record(self, noun: str, id_key: str, shown: Shown) -> str:
        """A read's answer."""
        if self.read == "text":
            return ", ".join(f"{k}: {_plain(v)}" for k, v in shown.items())
        return dumps(self._wrapped(noun, id_key, shown))

    def _wrapped(self, noun: str, id_key: str, shown: Shown) -> Shown:
        if self.read == "nested":
            inner = {k: v for k, v in shown.items() if k != id_key}
            return {id_key: shown[id_key], self.nest: inner}
        if self.read == "data":
            return {"success": True, "data": shown}
        return {noun: shown} if self.read == "noun" else {"result": shown} if self.read == "result" else shown

    def written(self, noun: str, id_key: str, before: Shown, after: Shown, verb: str) -> str:
        """A write's answer."""
        if self.write == "record":
            return self.record(noun, id_key, after)
        if self.write == "ok":
            return dumps({"ok": True})
        if self.write == "text":
            return f"{noun} {after[id_key]}: {verb} done"
        if self.write == "status":
            return dumps({"status": "success", id_key: after[id_key]})
        if self.write == "done":
            return dumps({noun: after[id_key], "action": verb, "done": True})
        if self.write == "noun":
            return dumps({"ok": True, noun: after})
        return dumps({id_key: after[id_key], **{k: v for k, v in after.items() if before.get(k) != v}})

    def listing(self, plural: str, entries: Sequence[Any], place: Shown, total: int, end: int, size: int) -> str:
        """A page of entries; `place` is the page or the offset of the call, `end` the index after the last entry."""
        forms: dict[str, Shown] = {
            "more": {"more": end < total}, "has_next": {"has_next": end < total}, "total": {"total": total},
            "next": {"next": end if end < total else None}, "left": {"left": max(0, total - end)},
            "pages": {"pages": -(-total // size)},
        }  # fmt: skip
        more = forms[self.rest]
        if self.entry == "text":
            return "\n".join([*(str(e) for e in entries), ", ".join(f"{k}: {_plain(v)}" for k, v in more.items())])
        if self.list_key == "bare":
            return dumps({**place, "found": list(entries), **more})
        if self.list_key == "count first":
            return dumps({"count": len(entries), "found": list(entries), **more})
        return dumps({plural if self.list_key == "plural" else self.list_key: list(entries), **place, **more})

    def listed(self, id_key: str, title: str, shown: Shown) -> Any:
        """A record as an entry of a list."""
        if self.entry == "object":
            return {id_key: shown[id_key], title: shown[title]}
        if self.entry == "short":
            return dict(list(shown.items())[:3])
        pattern = "{i}: {t}" if self.entry == "text" else self.entry
        others = [v for k, v in shown.items() if k not in (id_key, title) and not isinstance(v, dict | list)]
        return pattern.format(t=_plain(shown[title]), i=shown[id_key], v=_plain(others[0]) if others else "-")

    def error(self, reason: str, message: str) -> str:
        code = self.codes[reason]
        return {
            "code": dumps({"error": code, "message": message}),
            "text": f"Error: {message}",
            "nested": dumps({"error": {"code": code, "message": message}}),
            "flag": dumps({"ok": False, "reason": message}),
            "number": dumps({"status": self.numbers[reason], "detail": message}),
            "prefixed": f"Error: {code}: {message}",
        }[self.error_style]


def _plain(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
