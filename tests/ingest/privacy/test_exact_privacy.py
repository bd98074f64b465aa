"""A surrogate stands where the secret stands, not wherever something is equal to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ingest_samples import answer, call, chat, request, text

from ingest.lake import Lake
from ingest.records import Conversation


def told(tmp_path: Path, arguments: Any, *answers: Any, said: str = "hello") -> Conversation:
    """A conversation in which a call with arguments is made, then one more for each further answer."""
    history = [text("user", said)]
    for number, content in enumerate(answers):
        history += [call(f"a{number}", "login", arguments if number == 0 else {})]
        history += [answer(f"a{number}", content if isinstance(content, str) else json.dumps(content))]
    (tmp_path / "in.json").write_text(json.dumps(request(chat(1, 1, 1.0, history, [text("assistant", "ok")], "c"))))
    lake = Lake.create(tmp_path / "lake")
    lake.ingest([tmp_path / "in.json"])
    (c,) = lake.conversations()
    return c


def arguments_of(c: Conversation) -> dict[str, Any]:
    return next(m["tool_calls"][0]["arguments"] for m in c.messages if m.get("tool_calls"))  # type: ignore[return-value]


def answers_of(c: Conversation) -> list[str]:
    return [str(m["content"]) for m in c.messages if m["role"] == "tool"]


@pytest.mark.parametrize("password", ["12345", "0000", "abc12", "sunshine", "2024", "1234567890123456"])
def test_a_common_password_does_not_replace_equal_values(tmp_path: Path, password: str) -> None:
    error = f"Error: order {password} not found (status {password}, item {password}-B)"
    record = {"order_id": password, "note": f'say "{password}"\n', "total": 12345}
    c = told(tmp_path, {"user": "u-1", "password": password}, error, record)
    assert answers_of(c) == [error, json.dumps(record)]
    assert arguments_of(c)["user"] == "u-1" and arguments_of(c)["password"] != password


@pytest.mark.parametrize(
    "said",
    ["my password is {}", "Password: {}.", "the passcode {} does not work", "pin = {}", "new_password='{}'",
     "access code is {}!", 'token "{}" was refused'],
)  # fmt: skip
@pytest.mark.parametrize("password", ["12345", "sunshine"])
def test_a_common_password_is_replaced_where_it_is_called_a_password(tmp_path: Path, said: str, password: str) -> None:
    c = told(tmp_path, {"password": password}, "ok", said=f"{said.format(password)} And order {password} is late.")
    content = str(c.messages[0]["content"])
    assert content.count(password) == 1 and f"order {password} is late" in content
    assert arguments_of(c)["password"] in content


@pytest.mark.parametrize("more", ["", "\n"], ids=["plain", "with escapes"])
def test_a_common_password_is_replaced_in_its_own_field_only(tmp_path: Path, more: str) -> None:
    record = {"password": "12345", "order": {"id": "12345", "note": f"x{more}"}, "passwords": ["12345"], "n": 12345}
    c = told(tmp_path, {}, record)
    seen = json.loads(answers_of(c)[0])
    assert seen["password"] != "12345" and seen["order"]["id"] == "12345" and seen["n"] == 12345


def test_other_passwords_and_codes_of_cards_are_secrets_in_their_fields(tmp_path: Path) -> None:
    said = {"new_password": "sunshine", "currentPassword": "12345", "cvv": "737", "amount": "737"}
    c = told(tmp_path, said, "Error: order 12345: 737 sunshine lamps are out of stock")
    kept = {key for key, value in arguments_of(c).items() if value == said[key]}
    assert kept == {"amount"} and "order 12345: 737 sunshine" in answers_of(c)[0]


def test_an_uncommon_password_is_replaced_everywhere(tmp_path: Path) -> None:
    c = told(tmp_path, {"password": "hunter42x"}, "Error: hunter42x is wrong", {"echo": "hunter42x"})
    assert not any("hunter42x" in a for a in answers_of(c)) and arguments_of(c)["password"] in answers_of(c)[0]


@pytest.mark.parametrize(
    "errors", [{"password": "is required"}, {"password": "incorrect"}, {"password": "must be 8 characters or longer."}]
)
def test_a_message_about_a_password_is_not_a_password(tmp_path: Path, errors: dict[str, str]) -> None:
    c = told(tmp_path, {}, {"errors": errors}, "Error: the field is required; incorrect input")
    assert json.loads(answers_of(c)[0]) == {"errors": errors}
    assert answers_of(c)[1] == "Error: the field is required; incorrect input"


def test_a_name_that_is_also_a_word_is_kept_where_it_is_the_word(tmp_path: Path) -> None:
    record = {"customer": {"first_name": "Rose", "email": "rose@acme-mail.io"}, "item": "Rose gold ring"}
    c = told(tmp_path, {}, record, "Rose petals are out of stock.", "Thank you, Rose, bye", "I told Rose.")
    first, second, third, fourth = answers_of(c)
    assert json.loads(first)["item"] == "Rose gold ring" and json.loads(first)["customer"]["first_name"] != "Rose"
    assert second == "Rose petals are out of stock." and "Rose" not in third and "Rose" not in fourth


def test_the_name_of_a_test_user_does_not_change_an_error(tmp_path: Path) -> None:
    c = told(tmp_path, {}, {"user": {"first_name": "User", "last_name": "Test", "phone": "+1 415 555 2671"}},
             "User not found", "Error: Order 7 belongs to no user")  # fmt: skip
    assert answers_of(c)[1:] == ["User not found", "Error: Order 7 belongs to no user"]


def test_a_year_of_birth_does_not_replace_other_numbers(tmp_path: Path) -> None:
    c = told(tmp_path, {"dob": "1987"}, "Error: order 1987 of 1987 not found", said="I was born in 1987, order 1987")
    assert answers_of(c) == ["Error: order 1987 of 1987 not found"]
    content = str(c.messages[0]["content"])
    assert arguments_of(c)["dob"] != "1987" and content.endswith("order 1987") and "born in 1987" not in content


def test_a_password_that_is_the_users_name_too_is_a_secret_in_its_field_only(tmp_path: Path) -> None:
    both = {"user_id": "jdoe-2024", "password": "jdoe-2024"}
    c = told(tmp_path, both, "Error: user jdoe-2024 is locked")
    assert answers_of(c) == ["Error: user jdoe-2024 is locked"]
    assert arguments_of(c)["user_id"] == "jdoe-2024" != arguments_of(c)["password"]


@pytest.mark.parametrize("more", ["", "\n"], ids=["plain", "with escapes"])
def test_a_secret_that_is_a_number_stays_a_number_of_its_length(tmp_path: Path, more: str) -> None:
    """In its field it is another number, the same in call, answer and text; an order id of the same digits stays."""
    items = [{"id": 482913, "pin": 7, "note": f"x{more}"}]
    record = {"pin": 482913, "order_id": 482913, "items": items, "pins": [482913]}
    said = "My pin is 482913, and order 482913 is late."
    c = told(tmp_path, {"pin": 482913, "order_id": 482913}, record, "Error: no order 482913", said=said)
    arguments, seen = arguments_of(c), json.loads(answers_of(c)[0])
    made = arguments["pin"]
    assert type(made) is int and made != 482913 and len(str(made)) == 6
    assert arguments["order_id"] == 482913
    assert seen == {**record, "pin": made}
    assert answers_of(c)[1] == "Error: no order 482913"
    assert c.messages[0]["content"] == f"My pin is {made}, and order 482913 is late."


def test_equal_numbers_are_equal_in_other_conversations(tmp_path: Path) -> None:
    """Joins hold: what is one account in two conversations is one surrogate, of two accounts there are two."""
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "privacy.toml").write_text('fields = { account_number = "secret" }\n')
    lake = Lake.create(tmp_path / "lake")
    accounts = (1234567890, 1234567890, 987654321098765)
    for n, account in enumerate(accounts, 1):
        history = [text("user", "hello"), call("a", "look", {"account_number": account})]
        history.append(answer("a", json.dumps({"account_number": account, "order": account})))
        spans = chat(n, 1, n, history, [text("assistant", "ok")], f"c{n}")
        (tmp_path / "in.json").write_text(json.dumps(request(spans)))
        lake.ingest([tmp_path / "in.json"])
    made = [arguments_of(c)["account_number"] for c in lake.conversations()]
    assert made[0] == made[1] != made[2] and not set(made) & set(accounts)
    assert [len(str(m)) for m in made] == [10, 10, 15]
    seen = [json.loads(answers_of(c)[0]) for c in lake.conversations()]
    assert seen == [{"account_number": m, "order": a} for m, a in zip(made, accounts, strict=True)]


def test_counts_and_flags_under_a_secret_field_are_not_secrets(tmp_path: Path) -> None:
    said = {"password": 0, "pin": True, "otp": 12, "cvv": 737}
    kept = {key for key, value in arguments_of(told(tmp_path, said, "ok")).items() if value == said[key]}
    assert kept == {"password", "pin", "otp"}
