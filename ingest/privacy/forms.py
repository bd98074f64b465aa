"""Forms that detectors search and surrogates preserve: phone numbers, reserved networks, national identifiers."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from stdnum import verhoeff
from stdnum.br import cpf
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.it import codicefiscale
from stdnum.se import personnummer

DOCUMENTATION = tuple(map(ipaddress.ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")))


def phone_parts(text: str, digits: str) -> tuple[str, str, str]:
    """Return the prefix of a phone number that is kept, the number itself, and the prefix of its surrogate. The number
    is the same with and without +1, and with 00 for +."""
    prefix, number = ("00", digits[2:]) if digits.startswith("00") and not digits.startswith("000") else ("", digits)
    if len(number) == 11 and number[0] == "1":
        return prefix + "1", number[1:], "10"
    if prefix or text.lstrip(" (").startswith("+"):
        return prefix, number, "999"
    if number[:1] == "0":
        return "", number, "000"
    return "", number, "10" if len(number) == 10 else "100"


def is_documentation(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is in a network that is reserved for documentation."""
    return any(address in network for network in DOCUMENTATION)


def _is_social_security_number(text: str) -> bool:
    area, group, serial = text.split("-")
    return area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000"


def _is_aadhaar(text: str) -> bool:
    return verhoeff.is_valid(text.replace(" ", ""))


_IDENTIFIERS: tuple[tuple[re.Pattern[str], Callable[[str], bool]], ...] = tuple(
    (re.compile(form), check)
    for form, check in (
        (r"\d{3}-\d{2}-\d{4}", _is_social_security_number),  # no checksum, but a form of its own
        (r"\d{3}\.\d{3}\.\d{3}-\d{2}", cpf.is_valid),
        (r"\d{4} \d{4} \d{4}", _is_aadhaar),
        (r"\d{6}[-+]\d{4}", personnummer.is_valid),
        (r"\d{6}[-+A-F]\d{3}[0-9A-Y]", hetu.is_valid),
        (r"[12] ?\d{2} ?[01]\d ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}", nir.is_valid),
        (r"\d{8}-?[A-Z]", dni.is_valid),
        (r"[XYZ]-?\d{7}-?[A-Z]", nie.is_valid),
        (r"[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z]", codicefiscale.is_valid),
    )
)


def is_national_id(text: str) -> bool:
    """Whether a text is a national identifier of the USA, Brazil, India, Sweden, Finland, France, Spain or Italy."""
    return any(form.fullmatch(text) and check(text) for form, check in _IDENTIFIERS)
