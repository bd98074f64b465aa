"""Find secrets by their form: the plugins of detect-secrets, and tokens that it does not know."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from ingest.privacy.detectors import Hit

# Not used: those that need a line of code around the secret or guess from entropy (ids of records look random
# too), those whose form business ids have, and those that say that there is a secret without saying where.
_LEFT_OUT = {
    "ArtifactoryDetector", "IPPublicDetector", "JwtTokenDetector", "KeywordDetector", "NpmDetector",
    "PrivateKeyDetector",
}  # fmt: skip
# No secret that is known by its form is shorter, but for a password in an address.
LONG_FROM = 20
_LONG = re.compile(r"[\w\-+/=.:]{20,}|://[^\s/@:]+:|xox")
_OTHERS = re.compile(
    r"-----BEGIN[A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----[\s\S]+?-----END[A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
    r"|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"
    r"|\bsk-(?:[a-z]+-)*[\w-]{20,}|\b[rsp]k_(?:live|test)_\w{16,}|\bgithub_pat_\w{22,}|\bAIza[\w-]{35}"
    r"|\bhf_[A-Za-z0-9]{30,}|\bnpm_[A-Za-z0-9]{36}|\bxapp-\d-[\w-]{20,}"
)
_BEARER = re.compile(r"(?i)\b(?:bearer|basic) +([\w\-.~+/]{20,}=*)")
_SAID = re.compile(
    r"""(?i)\b(?:password|passwd|passcode|pwd|passphrase|api[ _-]?key|access[ _-]?key|secret(?:[ _-]?key)?|token)"""
    r"""["']?\s*(?:is|was|=|:|=>)\s*["']?(?P<value>[^\s"',;<>]{6,})"""
)
SAYS = ("passw", "passc", "passp", "pwd", "key", "secret", "token", "bearer", "basic")


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    """Return the plugins' own patterns: ``analyze_string`` would return the value of a match, but not its place."""
    # Imported when needed: it brings a client for HTTP along, which takes longer to load than all else here.
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector

    classes: Iterable[type] = get_mapping_from_secret_type_to_class().values()
    plugins = [c() for c in classes if issubclass(c, RegexBasedDetector) and c.__name__ not in _LEFT_OUT]
    return tuple(pattern for plugin in plugins for pattern in plugin.denylist)


def find_secrets(text: str) -> list[Hit]:
    """Return the places of secrets in a text, in order."""
    hits = []
    if "PRIVATE KEY" in text or _has_long(text):
        for pattern in (_OTHERS, *_patterns()):
            # A group behind the beginning is the secret within; one at the beginning is a vendor's prefix.
            hits += [_hit(m, int(bool(m.lastindex) and m.start(1) > m.start())) for m in pattern.finditer(text)]
    low = text.lower()
    if _says(low):
        hits += [_hit(m, 1) for m in _BEARER.finditer(text)]
        hits += [_trimmed(m) for m in _SAID.finditer(text) if _looks_secret(m["value"])]
    return sorted(hits)


def _has_long(text: str) -> bool:
    words_are_short = max(map(len, text.split()), default=0) < LONG_FROM
    if words_are_short and "://" not in text and "xox" not in text:
        return False
    return any(any(map(str.isdigit, m[0])) or m[0][0] in ":x" for m in _LONG.finditer(text))


def _says(low: str) -> bool:
    for word in SAYS:  # noqa: SIM110 (a generator takes longer)
        if word in low:
            return True
    return False


def _hit(m: re.Match[str], group: int) -> Hit:
    return Hit(*m.span(group), "secret")


def _trimmed(m: re.Match[str]) -> Hit:
    value = m["value"].rstrip(".!?)]}\\")
    return Hit(m.start("value"), m.start("value") + len(value), "secret")


def _looks_secret(value: str) -> bool:
    """Whether a word has digits and letters: "the password is Hunter42x" has a secret, "the token is invalid" has none.
    """
    value = value.rstrip(".!?)]}\\")
    return len(value) >= 6 and any(c.isdigit() for c in value) and any(c.isalpha() for c in value)
