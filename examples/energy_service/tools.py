"""The ten tools: arguments, effects, answers and faults.

A fault is {"fault":{"code":...,"detail":...,...}}. Quirks: queued changes (`set_instalment`, `switch_tariff`) show only
at the second read of the contract; `list_invoices` and `find_contracts` show three entries; a meter number is shown
with blanks and taken without. Timeouts and latencies depend on the seed, the tool and the call's index among its calls.
"""

from __future__ import annotations

import random
import re
import sqlite3
from collections import Counter
from collections.abc import Callable
from typing import Any

from training.environment import Observation, ToolCall

from ..shared import Timeouts, dumps
from .database import TODAY, Meter, Reading
from .tasks import Task, later

SHOWN = 3
MAX_ATTEMPTS = 3
TIMEOUT_RATES = {
    "find_contracts": 0.04,
    "get_contract": 0.04,
    "verify_holder": 0.03,
    "list_invoices": 0.06,
    "get_meter": 0.05,
    "submit_reading": 0.06,
    "set_instalment": 0.05,
    "list_tariffs": 0.05,
    "switch_tariff": 0.06,
    "defer_invoice": 0.05,
}
MEDIAN_LATENCY_MS = {"verify_holder": 240.0, "submit_reading": 420.0, "switch_tariff": 510.0, "list_invoices": 260.0}
TIMEOUT_MS = 8000.0


def _tool(name: str, description: str, required: int, /, **properties: str) -> dict[str, Any]:
    return {
        "type": "function",
        "name": name,
        "description": description,
        "parameters": {
            "type": "object",
            "properties": {k: {"type": t} for k, t in properties.items()},
            "required": list(properties)[:required],
        },
    }


TOOLS: tuple[dict[str, Any], ...] = (
    _tool("find_contracts", "Contracts of a holder", 2, holder="string", postcode="string", street="string"),
    _tool("get_contract", "One contract with its meters", 1, contract_no="string"),
    _tool("verify_holder", "Verify the caller by IBAN", 2, contract_no="string", iban_last4="string"),
    _tool("list_invoices", "Invoices, newest first", 1, contract_no="string", offset="integer"),
    _tool("get_meter", "A meter and its last reading", 1, meter_no="string"),
    _tool("submit_reading", "Record a reading", 2, meter_no="string", kwh="integer", confirmed="boolean"),
    _tool("set_instalment", "Change the monthly instalment", 2, contract_no="string", eur="integer"),
    _tool("list_tariffs", "Tariffs on offer: power or gas", 2, fuel="string", postcode="string"),
    _tool("switch_tariff", "Change the tariff", 2, contract_no="string", tariff_code="string"),
    _tool("defer_invoice", "Extend an invoice's due date", 2, invoice_no="string", days="integer"),
)
_SCHEMAS = {t["name"]: t["parameters"] for t in TOOLS}
_TYPES: dict[str, type] = {"string": str, "integer": int, "boolean": bool}


class Fault(Exception):
    """A refused call: code, text, and further fields of the fault."""

    def __init__(self, code: str, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.code = code
        self.body = {"fault": {"code": code, "detail": detail, **more}}


class Backend:
    """The tools of one episode, over its database. `noise_seed` seeds timeouts and latencies."""

    def __init__(self, task: Task, db: sqlite3.Connection, noise_seed: str) -> None:
        self._task, self._db, self._noise_seed = task, db, noise_seed
        self._ids = random.Random(f"ids {task.task_id}")
        self._calls: Counter[str] = Counter()
        self._timeouts = Timeouts(TIMEOUT_RATES)
        self._verified: set[str] = set()
        self._wrong_digits: Counter[str] = Counter()
        self._stale: dict[str, dict[str, Any]] = {}
        self._changed: set[str] = set()

    def call(self, call: ToolCall) -> Observation:
        """Answer one call. A refused call returns an observation with an error, never an exception."""
        name = _plain(str(call.name))
        rng = random.Random(f"{self._noise_seed} {name} {self._calls[name]}")
        self._calls[name] += 1
        latency = round(rng.lognormvariate(0, 0.4) * MEDIAN_LATENCY_MS.get(name, 130.0), 1)
        try:
            if self._timeouts.hits(name, rng):  # before any effect
                raise Fault("UPSTREAM_TIMEOUT", "billing core did not answer, nothing was changed")
            body = self._answer(name, call.arguments)
        except Fault as fault:
            latency += TIMEOUT_MS if fault.code == "UPSTREAM_TIMEOUT" else 0.0
            return Observation(dumps(fault.body), True, fault.code.lower(), latency)
        return Observation(dumps(body), latency_ms=latency)

    def _answer(self, name: str, arguments: Any) -> dict[str, Any]:
        schema = _SCHEMAS.get(name)
        if schema is None:
            raise Fault("UNKNOWN_TOOL", f"there is no tool {name}")
        if not isinstance(arguments, dict):
            raise Fault("BAD_REQUEST", "arguments must be an object")
        for key in schema["required"]:
            if key not in arguments:
                raise Fault("BAD_REQUEST", f"{key} is missing")
        for key, value in arguments.items():
            if key not in schema["properties"]:
                raise Fault("BAD_REQUEST", f"unknown field {_plain(str(key))}")
            wanted = schema["properties"][key]["type"]
            if not isinstance(value, _TYPES[wanted]) or (wanted == "integer" and isinstance(value, bool)):
                raise Fault("BAD_REQUEST", f"{key} must be {wanted}")
            if isinstance(value, str) and not value.isprintable():  # also refuses lone surrogates
                raise Fault("BAD_REQUEST", f"{key} must be plain text")
            if isinstance(value, int) and not -(10**9) < value < 10**9:
                raise Fault("BAD_REQUEST", f"{key} is out of bounds")
        handler: Callable[..., dict[str, Any]] = getattr(self, f"_{name}")
        return handler(**arguments)

    # ----- look-ups

    def _find_contracts(self, holder: str, postcode: str, street: str = "") -> dict[str, Any]:
        rows = self._db.execute(
            "SELECT contract_no, street, fuel FROM contracts WHERE lower(holder) = lower(?) AND postcode = ? "
            "AND instr(lower(street), lower(?)) > 0 ORDER BY contract_no",
            (holder.strip(), postcode.strip(), street.strip()),
        ).fetchall()
        return {
            "holder": holder,
            "postcode": postcode,
            "total": len(rows),
            "truncated": len(rows) > SHOWN,
            "contracts": [{"contract_no": no, "street": at, "fuel": fuel} for no, at, fuel in rows[:SHOWN]],
        }

    def _get_contract(self, contract_no: str) -> dict[str, Any]:
        fresh = self._view(contract_no)
        return self._stale.pop(contract_no, fresh)

    def _list_invoices(self, contract_no: str, offset: int = 0) -> dict[str, Any]:
        self._row(contract_no)
        self._require_verified(contract_no)
        if offset < 0:
            raise Fault("BAD_REQUEST", "offset starts at 0")
        rows = self._db.execute(
            "SELECT invoice_no, period, cents, due, state FROM invoices WHERE contract_no = ? ORDER BY rowid",
            (contract_no,),
        ).fetchall()
        return {
            "contract_no": contract_no,
            "total": len(rows),
            "offset": offset,
            "truncated": len(rows) > offset + SHOWN,
            "invoices": [
                {"invoice_no": number, "period": period, "eur": cents / 100, "due": due, "state": state}
                for number, period, cents, due, state in rows[offset : offset + SHOWN]
            ],
        }

    def _get_meter(self, meter_no: str) -> dict[str, Any]:
        meter, last = self._meter(meter_no)
        return {
            "meter_no": meter.meter_no,
            "contract_no": meter.contract_no,
            "place": meter.place,
            "last_kwh": last.kwh,
            "last_date": last.day,
            "source": last.source,
            "expected_kwh": meter.expected,
            "calibrated_until": meter.calibrated,
        }

    def _list_tariffs(self, fuel: str, postcode: str) -> dict[str, Any]:
        if fuel not in ("power", "gas"):
            raise Fault("BAD_REQUEST", "fuel must be power or gas")
        if not re.fullmatch(r"\d{5}", postcode, re.ASCII):
            raise Fault("BAD_REQUEST", "postcode must have 5 digits")
        query = "SELECT code, name, price, base, green FROM tariffs WHERE fuel = ? ORDER BY code"
        offers = [
            {"code": code, "name": name, "ct_kwh": price / 10, "base_eur": base / 100, "green": bool(green)}
            for code, name, price, base, green in self._db.execute(query, (fuel,))
        ]
        return {"fuel": fuel, "postcode": postcode, "total": len(offers), "tariffs": offers}

    # ----- verification and writes

    def _verify_holder(self, contract_no: str, iban_last4: str) -> dict[str, Any]:
        row = self._row(contract_no)
        if self._wrong_digits[contract_no] >= MAX_ATTEMPTS:
            raise Fault("LOCKED", "too many attempts, verification is locked for today")
        if iban_last4 != row["iban4"]:
            self._wrong_digits[contract_no] += 1
            left = MAX_ATTEMPTS - self._wrong_digits[contract_no]
            raise Fault("IBAN_MISMATCH", "these digits are not on file", attempts_left=left)
        self._verified.add(contract_no)
        return {
            "contract_no": contract_no,
            "verified": True,
            "holder": row["holder"],
            "method": "iban",
            "valid_minutes": 30,
        }

    def _submit_reading(self, meter_no: str, kwh: int, confirmed: bool = False) -> dict[str, Any]:
        meter, last = self._meter(meter_no)
        if kwh < last.kwh:
            raise Fault("BELOW_LAST", f"reading is below the last one of {last.kwh} kWh", last_kwh=last.kwh)
        if kwh > meter.expected + meter.margin and not confirmed:
            detail = "far above the expected value, confirm with the customer"
            raise Fault("IMPLAUSIBLE", detail, expected_kwh=meter.expected)
        self._db.execute(
            "INSERT INTO readings (meter_no, day, kwh, source) VALUES (?, ?, ?, 'customer')", (meter_no, TODAY, kwh)
        )
        return {
            "meter_no": meter_no,
            "reading_no": f"Z-{self._ids.randint(10000, 99999)}",
            "kwh": kwh,
            "used_kwh": kwh - last.kwh,
            "since": last.day,
            "state": "accepted",
        }

    def _set_instalment(self, contract_no: str, eur: int) -> dict[str, Any]:
        row = self._row(contract_no)
        self._require_verified(contract_no)
        low, high = row["min_eur"], row["max_eur"]
        if not low <= eur <= high:
            raise Fault("OUT_OF_RANGE", "instalment is outside the allowed range", min_eur=low, max_eur=high)
        self._queue(contract_no, "eur", eur, "eur_from")
        return {"contract_no": contract_no, "ticket": self._ticket(), "instalment_eur": eur, "state": "queued"}

    def _switch_tariff(self, contract_no: str, tariff_code: str) -> dict[str, Any]:
        row = self._row(contract_no)
        self._require_verified(contract_no)
        query = "SELECT name, fuel FROM tariffs WHERE code = ?"
        name, fuel = self._db.execute(query, (tariff_code,)).fetchone() or ("", "")
        if fuel != row["fuel"]:
            raise Fault("NO_SUCH_TARIFF", f"no {row['fuel']} tariff with this code")
        if name == row["tariff"]:
            raise Fault("SAME_TARIFF", f"contract already has {name}")
        if row["fixed_until"]:
            raise Fault("FIXED_TERM", "contract is in its fixed term", fixed_until=row["fixed_until"])
        query = "SELECT invoice_no, cents FROM invoices WHERE contract_no = ? AND state = 'overdue'"
        overdue = self._db.execute(query, (contract_no,)).fetchone()
        if overdue:
            number, cents = overdue
            raise Fault("ARREARS", "an overdue invoice blocks the change", invoice_no=number, eur=cents / 100)
        self._queue(contract_no, "tariff", name, "tariff_from")
        return {"contract_no": contract_no, "ticket": self._ticket(), "tariff": name, "state": "queued"}

    def _defer_invoice(self, invoice_no: str, days: int) -> dict[str, Any]:
        found = self._db.execute(
            "SELECT i.contract_no, i.cents, i.due, i.state, c.max_days FROM invoices i "
            "JOIN contracts c USING (contract_no) WHERE invoice_no = ?",
            (invoice_no,),
        ).fetchone()
        if found is None:
            raise Fault("NOT_FOUND", f"no invoice {invoice_no[:20]}")
        contract_no, cents, old_due, state, max_days = found
        self._require_verified(contract_no)
        if state == "paid":
            raise Fault("ALREADY_PAID", "invoice is paid")
        if state == "deferred":
            raise Fault("ALREADY_DEFERRED", "an invoice can be deferred only once", due=old_due)
        if not 1 <= days <= max_days:
            raise Fault("TOO_LONG", "extension is longer than allowed", max_days=max_days)
        due = later(old_due, days)
        self._db.execute("UPDATE invoices SET due = ?, state = 'deferred' WHERE invoice_no = ?", (due, invoice_no))
        return {"invoice_no": invoice_no, "eur": cents / 100, "old_due": old_due, "due": due, "state": "deferred"}

    # ----- rules and quirks

    def _row(self, contract_no: str) -> dict[str, Any]:
        """A contract, by column."""
        if not re.fullmatch(r"C-\d{5}", contract_no, re.ASCII):
            raise Fault("BAD_CONTRACT_NO", "contract_no has the form C-00000")
        cursor = self._db.execute("SELECT * FROM contracts WHERE contract_no = ?", (contract_no,))
        row = cursor.fetchone()
        if row is None:
            raise Fault("NOT_FOUND", f"no contract {contract_no}")
        return dict(zip([column[0] for column in cursor.description], row, strict=True))

    def _view(self, contract_no: str) -> dict[str, Any]:
        """A contract as `get_contract` shows it."""
        row = self._row(contract_no)
        query = "SELECT place, meter_no FROM meters WHERE contract_no = ? ORDER BY rowid"
        meters = self._db.execute(query, (contract_no,)).fetchall()
        return {
            "contract_no": contract_no,
            "holder": row["holder"],
            "street": row["street"],
            "postcode": row["postcode"],
            "fuel": row["fuel"],
            "tariff": row["tariff"],
            "tariff_from": row["tariff_from"],
            "fixed_until": row["fixed_until"],
            "instalment_eur": row["eur"],
            "instalment_from": row["eur_from"],
            "change": "done" if contract_no in self._changed else None,
            "meters": [{"place": place, "meter_no": f"{no[:3]} {no[3:6]} {no[6:]}"} for place, no in meters],
        }

    def _meter(self, meter_no: str) -> tuple[Meter, Reading]:
        """A meter and its last reading."""
        if not re.fullmatch(r"\d[A-Z]{2}\d{6}", meter_no, re.ASCII):
            raise Fault("BAD_METER_NO", "meter_no is written without blanks, 9 characters")
        meter = self._db.execute("SELECT * FROM meters WHERE meter_no = ?", (meter_no,)).fetchone()
        if meter is None:
            raise Fault("NOT_FOUND", f"no meter {meter_no}")
        query = "SELECT * FROM readings WHERE meter_no = ? ORDER BY id DESC LIMIT 1"
        return Meter(*meter), Reading(*self._db.execute(query, (meter_no,)).fetchone())

    def _require_verified(self, contract_no: str) -> None:
        if contract_no not in self._verified:
            raise Fault("NOT_VERIFIED", "verify the holder first", contract_no=contract_no)

    def _queue(self, contract_no: str, column: str, value: Any, since: str) -> None:
        """Change a contract; the next read still shows its old values, with the change queued."""
        self._stale[contract_no] = self._view(contract_no) | {"change": "queued"}
        self._changed.add(contract_no)
        self._db.execute(
            f"UPDATE contracts SET {column} = ?, {since} = ? WHERE contract_no = ?",
            (value, self._task.effective, contract_no),
        )

    def _ticket(self) -> str:
        return f"T-{self._ids.randint(10000, 99999)}"


def _plain(text: str) -> str:
    return text[:40].encode("ascii", "replace").decode()
