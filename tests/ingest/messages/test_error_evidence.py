"""Whether an answer is an error: by the span's status and by what the answer says in so many words, not by a word that
a tool may answer with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ingest_samples import answer, call, chat, request, span, text

from ingest.lake import Lake
from ingest.messages.error_class import classify_error, says_error


def outcome(tmp_path: Path, body: Any, status: int | None, flag: bool | None = None) -> tuple[bool, str]:
    """Whether the answer of a call is an error, and its class. ``status`` is the span's; None: there is no span."""
    content = body if isinstance(body, str) else json.dumps(body)
    result = answer("a", content)
    if flag is not None:
        result["parts"][0]["is_error"] = flag
    history = [text("user", "bye"), call("a", "logout", {}), result]
    spans = [chat(1, 2, 2.0, history, [text("assistant", "Done.")], "c-1")]
    if status is not None:
        values = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "logout", "gen_ai.tool.call.id": "a",
                  "gen_ai.tool.call.result": content}  # fmt: skip
        values |= {"error.type": "TimeoutError"} if status == 2 else {}
        spans.append(span(1, 3, "execute_tool logout", values, at=1.0, status={"code": status}))
    (tmp_path / "in.json").write_text(json.dumps(request(*spans)))
    lake = Lake.create(tmp_path / "lake")
    lake.ingest([tmp_path / "in.json"])
    (t,) = lake.transitions()
    return t.is_error, t.error_class


@pytest.mark.parametrize("status", [None, 0, 1])
@pytest.mark.parametrize("body", [{"success": False}, {"success": False, "session": "s-1"}])
def test_success_false_as_a_normal_result_is_not_an_error(
    tmp_path: Path, body: Any, status: int | None
) -> None:
    assert outcome(tmp_path, body, status) == (False, "")


@pytest.mark.parametrize("status", [0, 1])
@pytest.mark.parametrize(
    "body",
    [{"status": "failed"}, {"status": "failed", "job": 7}, {"status": "failed", "reason": "card declined"},
     {"success": False, "message": "You were not logged in."}, {"errors": 3, "rows": 10}],
    ids=str,
)  # fmt: skip
def test_a_domain_status_is_not_an_error_if_the_span_is_ok(
    tmp_path: Path, body: Any, status: int
) -> None:
    assert outcome(tmp_path, body, status) == (False, "")


@pytest.mark.parametrize("body", [{"success": False}, {"status": "failed"}, {"ok": True}, "done"], ids=str)
def test_the_span_status_and_type_take_precedence(tmp_path: Path, body: Any) -> None:
    assert outcome(tmp_path, body, 2) == (True, "TimeoutError")


def test_a_flag_beside_the_result_decides(tmp_path: Path) -> None:
    body = {"success": False, "message": "You were not logged in."}
    assert outcome(tmp_path, body, None, flag=False) == (False, "")


@pytest.mark.parametrize("status", [None, 0, 1])
@pytest.mark.parametrize(
    ("body", "named"),
    [({"error": "no such order"}, "no_such_order"), ("Error: no such order", "no_such_order"),
     ({"status": "error", "error_message": "no such order"}, "no_such_order"),
     ({"success": False, "error": {"code": "not_found"}}, "not_found"),
     ({"result": "Error: no such order"}, "no_such_order"),
     ({"status": "error", "message": "no such order"}, "no_such_order")],
    ids=str,
)  # fmt: skip
def test_a_result_that_declares_an_error_is_an_error(tmp_path: Path, body: Any, named: str, status: int | None) -> None:
    assert outcome(tmp_path, body, status) == (True, named)


@pytest.mark.parametrize(
    ("body", "named"),
    [({"success": False, "message": "no such order"}, "no_such_order"),
     ({"status": "failed", "reason": "card declined"}, "card_declined"),
     ({"success": False, "code": "E42"}, "e42"),
     ({"ok": False, "errorType": "NotFound", "resource": "policy"}, "notfound"),
     ({"ok": False, "errorType": "RuleBroken", "rule": "CHEQUE_LIMIT", "detail": "at most 1000"}, "cheque_limit")],
    ids=str,
)  # fmt: skip
def test_without_a_span_an_error_needs_a_reason(body: Any, named: str) -> None:
    assert says_error(json.dumps(body)) and classify_error(None, json.dumps(body)) == named
    assert not says_error(json.dumps(body), went_well=True)


@pytest.mark.parametrize(("content", "name"), [
    ('{"Error": {"Code": "IncorrectState", "Message": "Volume vol-1 is in use."}, "Region": "e"}', "incorrectstate"),
    ('{"__type": "com.amazon.coral#NotFoundException", "message": "no table T"}', "notfoundexception"),
    ('{"ErrorCode": "X12", "ErrorMessage": "line 4"}', "x12"),
    ('{"Errors": [{"Code": "Bad", "Message": "m"}]}', "bad"),
    ('{"error": "Order O-1 not found", "code": "ORDER_NOT_FOUND"}', "order_not_found"),
    ('{"code": 404, "message": "no such page"}', "404"),
    ('{"type": "about:blank", "title": "Gone", "status": 410, "detail": "it was closed"}', "410"),
    ("ERR 73: OVER-PICK. 17 EA REMAINING.", "over_pick"),
    ("Error 400: Seat taken", "seat_taken"),
    ("ERR wallet holds 12 ct, 100 ct needed", "wallet_holds_ct"), ("-ERR no such message", "no_such_message"),
    ("ERR: no such row", "no_such_row"), ("-WRONGTYPE Operation on a list", "wrongtype_operation_on_a_list"),
    ("ERR_SEAT_TAKEN: row 4", "err_seat_taken"),
    ('{"error": "Coupon expired", "code": "SAVE10"}', "coupon_expired"),
])  # fmt: skip
def test_errors_in_other_spellings(content: str, name: str) -> None:
    assert says_error(content) and classify_error(None, content) == name


@pytest.mark.parametrize("content", [
    '{"code": "PROMO10", "message": "10 % off"}', '{"status": 200, "message": "done"}', '{"errors": []}',
    '{"Errors": 3}',
    '{"code": 404, "name": "Not an error", "price": 4}', "ERRANDS: 4", "ERR", "ERRATA 3", "-3 EUR",
    "ERR_CODES table follows",
    '{"code": 412, "title": "Blue widget"}', '{"__type": "Order", "message": "hi"}',
])  # fmt: skip
def test_what_only_looks_like_an_error(content: str) -> None:
    assert not says_error(content)
