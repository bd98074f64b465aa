"""The failures of one API: each world draws some of a wide family, with rates at random."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass

from training.tiny.pretraining.worlds.names import PLAIN, VOWELS


@dataclass(frozen=True)
class Failures:
    """Which failures an API has. A rate or a number of 0 means: never."""

    outage: float
    """Share of calls that fail for no reason."""
    quota: int
    """Calls of one kind (`quota_of`) until the API refuses more."""
    quota_of: str
    pause: int
    """What the pause after a spent quota has to be, in seconds."""
    lag: int
    """Reads after a write that still show the old record."""
    denied: float
    """Share of records that nobody may change."""
    confirm: str
    """How changes are confirmed: `flag`, `code`, or not at all."""
    versions: str
    """The field of a record's version, which a change has to name, or nothing."""
    strict_ids: bool
    """Ids in another form are refused, with the right form in the message; else they are understood."""
    exact_search: bool
    """Upper and lower case count in searches."""
    shortest: int
    """The length of the shortest query."""
    bounded: bool
    """Quantities have an upper bound."""
    linked: bool
    """A change needs the linked record in a certain state."""


def draw_failures(rng: random.Random) -> Failures:
    """Each failure with its own probability."""

    def sometimes(share: float) -> bool:
        return rng.random() < share

    return Failures(
        outage=rng.choice((0.0, 0.0, 0.03, 0.08, 0.15, 0.25)),
        quota=rng.randint(2, 7) if sometimes(0.35) else 0,
        quota_of=rng.choice(("read", "list", "write", "any")),
        pause=rng.choice((1, 2, 3, 8, 10, 15, 30, 60)),
        lag=rng.randint(1, 3) if sometimes(0.3) else 0,
        denied=rng.choice((0.1, 0.2, 0.4)) if sometimes(0.2) else 0.0,
        confirm=rng.choice(("flag", "code")) if sometimes(0.2) else "",
        versions=rng.choice(("version", "etag", "revision")) if sometimes(0.15) else "",
        strict_ids=sometimes(0.5),
        exact_search=sometimes(0.3),
        shortest=rng.randint(2, 5) if sometimes(0.2) else 0,
        bounded=sometimes(0.25),
        linked=sometimes(0.2),
    )


@dataclass(frozen=True)
class IdForm:
    """The ids of one kind of record, and the forms in which a tool may take them."""

    prefix: str
    digits: int
    letters: bool
    """Letters and digits, as in hexadecimal ids."""
    padded: bool
    pattern: str = ""
    """The whole id by classes of characters: `A` and `a` random letters, `9` a random digit, `s` a syllable."""

    def draw(self, rng: random.Random) -> str:
        if self.pattern:
            return "".join(CLASSES[c](rng) if c in CLASSES else c for c in self.pattern)
        if self.letters:
            return self.prefix + "".join(rng.choice("0123456789abcdef") for _ in range(self.digits))
        top = 10**self.digits - 1
        number = rng.randint(1, top // 10) if self.padded else rng.randint(top // 10 + 1, top)
        return self.prefix + (f"{number:0{self.digits}d}" if self.padded else str(number))

    def forms(self) -> list[str]:
        """The names of the forms that differ for these ids."""
        sample = self.draw(random.Random(0))
        return [name for name, write in FORMS.items() if name == "whole" or write(self, sample) != sample]


CLASSES: dict[str, Callable[[random.Random], str]] = {
    "A": lambda rng: rng.choice(string.ascii_uppercase),
    "a": lambda rng: rng.choice(string.ascii_lowercase),
    "9": lambda rng: rng.choice(string.digits),
    "s": lambda rng: rng.choice(PLAIN) + rng.choice(VOWELS),
}
GROUPS = tuple("A AA AA AAA AAAA 9 99 999 9999 99999 9A9A9 AA99A aaa aaaa a9a9 sss".split())


def _unpadded(form: IdForm, identity: str) -> str:
    return form.prefix + (identity.removeprefix(form.prefix).lstrip("0") or "0")


FORMS: dict[str, Callable[[IdForm, str], str]] = {
    "whole": lambda form, identity: identity,
    "bare": lambda form, identity: identity.removeprefix(form.prefix),
    "upper": lambda form, identity: identity.upper(),
    "lower": lambda form, identity: identity.lower(),
    "joined": lambda form, identity: identity.replace("-", "").replace("_", ""),
    "unpadded": lambda form, identity: _unpadded(form, identity) if form.padded else identity,
}
DEMANDS = {
    "whole": ("{k} needs the form {x}", "{k} must look like {x}"),
    "bare": ("{k} without {p}", "give {k} without {p}", "{k} must not begin with {p}"),
    "upper": ("{k} must be upper case", "only capital letters in {k}"),
    "lower": ("{k} must be lower case", "no capitals in {k}"),
    "joined": ("no separators in {k}", "{k} has no dash"),
    "unpadded": ("{k} has leading zeros", "{k} without zeros at the start"),
}


def draw_id_form(rng: random.Random, noun: str) -> IdForm:
    if rng.random() < 0.45:
        return IdForm("", 0, False, False, _pattern(rng))
    initial = noun[0].upper()
    prefix = rng.choice(
        ("", "", "", f"{initial}-", initial, f"{noun[:2].upper()}-", f"{noun}_", "#", f"{noun[:3]}-", 2 * initial + "_")
    )
    letters = rng.random() < 0.15
    digits = rng.randint(6, 10) if letters else rng.randint(3, 8)
    return IdForm(prefix, digits, letters, not letters and rng.random() < 0.2)


def _pattern(rng: random.Random) -> str:
    """Two or three groups of random characters, joined alike; enough of them that ids of one world differ."""
    while True:
        joint = rng.choice(("-", "-", "-", "", "", "/", ".", "_"))
        groups = rng.choices(GROUPS, k=rng.choice((2, 2, 3)))
        if sum(map(len, groups)) >= 4 and len({g[0] for g in groups}) > 1 or groups[0][0] == "s":
            return joint.join(groups)
