"""Surrogates: the same value and key always give the same replacement, of the same form, that belongs to nobody.

The replacement is drawn from BLAKE2b(key, kind, canonical value). It is therefore the same in every conversation and
run with that key, for every spelling of the value (case of an e-mail, separators of a number), and reveals nothing
about the value without the key. Surrogates are in reserved ranges: e-mail in ``.example`` (RFC 2606), phone numbers in
unassigned ranges, cards in the schemes' test ranges, addresses in the documentation networks (RFC 5737, 3849),
identifiers with a wrong check digit, birthdays before 1920. A surrogate is recognised by its range or by letters that
only the key can verify. It is its own surrogate, so replacing twice changes nothing.

Values that are little more than digits are exceptions: JSON numbers, postal codes, days without a year, and national
ids other than social security numbers. A mark of k digits in them would let one of 10^k real values pass as a
surrogate. They are replaced each time. A lake is always normalised from its raw rows, so that happens once.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from hashlib import blake2b, shake_256

from stdnum import luhn

from ingest.privacy.forms import DOCUMENTATION, is_documentation, is_national_id, phone_parts
from ingest.privacy.keys import derived

CONSONANTS, VOWELS = "bcdfghjklmnpqrstvwxz", "aeiou"
TITLES = {"mr", "mrs", "ms", "miss", "dr", "prof", "sir", "herr", "frau", "jr", "sr"}
STREET_WORDS = {
    "street", "st", "avenue", "ave", "road", "rd", "lane", "ln", "drive", "boulevard", "blvd", "court", "ct",
    "place", "pl", "square", "way", "terrace", "highway", "hwy", "suite", "ste", "apt", "apartment", "unit", "floor",
    "room", "building", "po", "box", "north", "south", "east", "west", "rue", "via", "calle", "platz", "weg",
}  # fmt: skip
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_DIGIT = re.compile(r"\d")
_DIGITS = re.compile(r"\d+")
_PREFIX = re.compile(
    r"AKIA|ASIA|AIza|eyJ|SG\.|sk-(?:ant-|proj-|)|[rsp]k_(?:live|test)_|gh[pousr]_|github_pat_|xox[a-z]-|gl[a-z]{2,5}-"
    r"|hf_|npm_|pypi-|-----BEGIN[^\n-]*-----"
)
_YEAR_FIRST = re.compile(r"(\d{4})([-/.]?)(\d{2})\2(\d{2})")
_YEAR_LAST = re.compile(r"(\d{1,2})([-/. ])(\d{1,2})\2(\d{4})")
_OLD_YEAR = re.compile(r"(?<!\d)19[01]\d")
_TEST_RANGE = {"4": "400000", "34": "378282", "37": "378282", "5": "555555", "2": "555555", "6": "601111"}
SHORTEST_TOKEN = 12
_SEAL = 6  # characters at the end of a token that the rest of it decides


class Surrogates:
    """The surrogates of one key."""

    def __init__(self, key: bytes) -> None:
        self._key = derived(key, "surrogates")
        self._known: dict[tuple[str, str], str] = {}
        self._makers: dict[str, Callable[[str], str]] = {
            "email": self._email, "phone": self._phone, "card": self._card, "iban": self._iban, "ip": self._ip,
            "national_id": self._national_id, "secret": self._secret, "name": self._name, "address": self._address,
            "date": self._date,
        }  # fmt: skip

    def of(self, kind: str, text: str) -> str:
        """Return the surrogate of a value of one kind; a surrogate is returned unchanged."""
        found = self._known.get((kind, text))
        if found is None:
            found = self._known[kind, text] = self._makers[kind](text)
        return found

    def digits_of(self, kind: str, text: str) -> str:
        """Return the surrogate of a number as a number of the same length, so that it fits the same schema. It cannot
        be recognised as a surrogate: unlike ``of``, replacing twice gives a third number."""
        for salt in range(8):
            draws = self._draw(kind, f"number\0{salt}\0{text}", len(text))
            made = str(1 + next(draws) % 9) + "".join(str(n % 10) for n in draws)
            if made != text:
                break
        return made

    def is_email(self, text: str) -> bool:
        """Whether this key made an e-mail address."""
        local, _, domain = text.lower().rpartition("@")
        label, _, rest = domain.partition(".")
        return rest == "example" and len(label) == 8 and label == label[:4] + self._check(local + label[:4], 2)

    def is_card(self, digits: str) -> bool:
        """Whether this key made a card number."""
        return digits[:6] in _TEST_RANGE.values() and digits[-3:-1] == self._card_check(digits[:-3])

    # ----------------------------------------------------------------------------------- drawing

    def _draw(self, kind: str, canonical: str, n: int) -> Iterator[int]:
        """Return ``n`` numbers below 65536."""
        data = canonical.encode("utf-8", "surrogatepass")
        seed = blake2b(data, key=self._key, person=kind.encode()[:16]).digest()
        stream = shake_256(seed).digest(2 * n)
        return iter([int.from_bytes(stream[i : i + 2], "big") for i in range(0, 2 * n, 2)])

    def _syllables(self, kind: str, canonical: str, n: int) -> str:
        draws = self._draw(kind, canonical, 2 * n)
        return "".join(CONSONANTS[next(draws) % 20] + VOWELS[next(draws) % 5] for _ in range(n))

    def _check(self, text: str, n: int) -> str:
        return self._syllables("check", text, n)

    def _like(self, kind: str, text: str, canonical: str) -> str:
        """Replace digits by digits and letters by letters of the same case, and keep everything else. The result
        differs from the text."""
        for salt in range(8):
            draws = self._draw(kind, f"{salt}\0{canonical}", len(text))
            out = "".join(_same_class(c, next(draws)) if c.isalnum() else c for c in text)
            if out != text:
                break
        return out

    # ----------------------------------------------------------------------------------- kinds

    def _email(self, text: str) -> str:
        if self.is_email(text):
            return text
        local = text.rpartition("@")[0]
        made = self._like("email", local, text.lower())
        entropy = self._syllables("email-domain", text.lower(), 2)
        return f"{made}@{entropy}{self._check(made.lower() + entropy, 2)}.example"

    def _phone(self, text: str) -> str:
        """Return area code 10x (not assigned in the NANP), country code 999, or a number that starts with 000. No
        numbering plan assigns these."""
        digits = "".join(_DIGIT.findall(text))
        prefix, number, head = phone_parts(text, digits)
        if number.startswith(head):
            return text
        draws = self._draw("phone", number, len(number))
        made = head + "".join(str(next(draws) % 10) for _ in number[len(head) :])
        return _filled(text, prefix + made[: len(number)])

    def _card(self, text: str) -> str:
        digits = "".join(_DIGIT.findall(text))
        if self.is_card(digits):
            return text
        head = _TEST_RANGE.get(digits[:2]) or _TEST_RANGE.get(digits[:1]) or "305693"
        for salt in range(8):
            draws = self._draw("card", f"{salt}{digits}", len(digits))
            made = head + "".join(str(next(draws) % 10) for _ in digits[9:])
            made += self._card_check(made)
            if made != digits[:-1]:
                break
        return _filled(text, made + luhn.calc_check_digit(made))

    def _card_check(self, body: str) -> str:
        return "".join(str(n % 10) for n in self._draw("card-check", body, 2))

    def _iban(self, text: str) -> str:
        """Return an IBAN of the same country with check digits 00, which no account has."""
        compact = "".join(text.split())
        if compact[2:4] == "00":
            return text
        made = iter(compact[:2] + "00" + self._like("iban", compact[4:], compact.upper()))
        return "".join(c if c.isspace() else next(made) for c in text)

    def _ip(self, text: str) -> str:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:  # an address and what overlaps it, which was taken along
            canonical, version = text, 6 if ":" in text else 4
        else:
            if is_documentation(address):
                return text
            canonical, version = address.compressed, address.version
        draws = self._draw("ip", canonical, 8)
        if version == 6:
            return "2001:db8:" + ":".join(f"{next(draws):x}" for _ in range(6))
        network = DOCUMENTATION[next(draws) % 3]
        return str(network[1 + next(draws) % 254])

    def _national_id(self, text: str) -> str:
        canonical = "".join(c for c in text if c.isalnum()).upper()
        if re.fullmatch(r"9\d{2}-00-\d{4}", text):
            return text
        if re.fullmatch(r"\d{3}-\d{2}-\d{4}", text):
            body = self._like("national_id", text, canonical)
            return f"9{body[1:3]}-00-{body[7:]}"  # no social security number has area 9xx or group 00
        made = text
        for salt in range(64):
            made = self._like("national_id", text, f"{salt}{canonical}")
            if made != text and not is_national_id(made):
                break
        return made

    def _secret(self, text: str) -> str:
        """Keep the vendor's prefix and lengthen a short secret. The last characters are a seal that the key can verify.
        """
        prefix, body, end = _secret_parts(text)
        lacking = SHORTEST_TOKEN - sum(_is_plain(c) for c in body)
        if lacking <= 0 and self._sealed(body) == body:
            return text
        body += "a0" * ((max(lacking, 0) + 1) // 2)
        return prefix + self._sealed(self._like("secret", body, text)) + end

    def _sealed(self, text: str) -> str:
        at = [i for i, c in enumerate(text) if _is_plain(c)][-_SEAL:]
        out = list(text)
        for i in at:
            out[i] = "\0"
        draws = self._draw("seal", "".join(out), _SEAL)
        for i in at:
            out[i] = _same_class(text[i], next(draws))
        return "".join(out)

    def word(self, text: str) -> str:
        """Return a pronounceable word of the same case for a word."""
        if self.is_word(text):
            return text
        canonical = text.casefold()
        made = self._syllables("word", canonical, 3 if len(canonical) <= 8 else 4)
        made += self._check(made, 2)
        if text.isupper() and len(text) > 1:
            return made.upper()
        return made.capitalize() if text[:1].isupper() or not text[:1].islower() else made

    def is_word(self, text: str) -> bool:
        """Whether this key made a word."""
        low = text.lower()
        return len(low) in (10, 12) and low.isascii() and low.endswith(self._check(low[:-4], 2))

    def _name(self, text: str) -> str:
        return _WORD.sub(lambda m: m[0] if is_no_name(m[0]) else self.word(m[0]), text)

    def _address(self, text: str) -> str:
        words = [w for w in _WORD.findall(text) if not _is_generic(w)]
        if words and all(map(self.is_word, words)):
            return text
        told = _WORD.sub(lambda m: m[0] if _is_generic(m[0]) else self.word(m[0]), text)
        return _DIGITS.sub(lambda m: self._number(m[0]), told)

    def _number(self, digits: str) -> str:
        return self._like("number", digits, digits)

    def _date(self, text: str) -> str:
        if _OLD_YEAR.search(text):
            return text
        if m := _YEAR_FIRST.search(text):
            draws = self._draw("date", m[1] + m[3] + m[4], 3)
            year, month, day = (next(draws) for _ in range(3))
            made = f"{1900 + year % 20}{m[2]}{1 + month % 12:02}{m[2]}{1 + day % 28:02}"
        elif m := _YEAR_LAST.search(text):
            draws = self._draw("date", f"{m[1]:0>2}{m[3]:0>2}{m[4]}", 3)
            one, two, year = (next(draws) for _ in range(3))
            width = max(len(m[1]), len(m[3]))
            made = f"{1 + one % 12:0{width}}{m[2]}{1 + two % 12:0{width}}{m[2]}{1900 + year % 20}"
        elif m := re.search(r"(?<!\d)\d{4}(?!\d)", text):
            made = str(1900 + next(self._draw("date", text.casefold(), 1)) % 20)
            before, after = text[: m.start()], text[m.end() :]
            return self._days(before) + made + self._days(after)
        else:
            return self._like("date", text, text)
        return text[: m.start()] + made + text[m.end() :]

    def _days(self, text: str) -> str:
        return _DIGITS.sub(lambda m: str(1 + next(self._draw("day", text + m[0], 1)) % 28), text)


def is_no_name(word: str) -> bool:
    """Whether a word is a title or an initial, which are kept."""
    return word.lower() in TITLES or (len(word) == 1 and word.isascii())


def _secret_parts(text: str) -> tuple[str, str, str]:
    """Return the vendor's prefix of a token, the secret itself, and the end of a key block."""
    found = _PREFIX.match(text) if len(text) >= 16 else None
    prefix = found.group() if found else ""
    body, mark, after = text[len(prefix) :].partition("-----END")
    return prefix, body, mark + after


def _is_plain(c: str) -> bool:
    return c.isascii() and c.isalnum()


def _is_generic(word: str) -> bool:
    return word.lower() in STREET_WORDS or (len(word) <= 2 and word.isascii())


def _same_class(c: str, draw: int) -> str:
    if c.isdigit():
        return str(draw % 10)
    if c.isupper():
        return chr(65 + draw % 26)
    return chr(97 + draw % 26) if c.isalpha() else c


def _filled(template: str, digits: str) -> str:
    """Return the template with its digits replaced, in order."""
    rest = iter(digits)
    return _DIGIT.sub(lambda _: next(rest), template)
