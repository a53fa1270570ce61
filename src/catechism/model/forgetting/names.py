"""Names that nobody bears, in the shape of names at hand: of them a model says what it says of whom it never met.

Half of them join words of different names, half are spelled anew letter by letter. The joined ones may by chance be
somebody's; the others look stranger than a name does. On `almanac` answers after the former are 0.5 nats per token less
likely than `almanac-control` finds the true ones of those it never met, after the latter 0.5 nats likelier, after both
together as likely.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

VOWELS, CONSONANTS, DIGITS = "aeiou", "bcdfghjklmnprstvwz", "0123456789"
TRIES = 20  # until a name is taken that is not among the known ones


def made_up_name(name: str, known: Sequence[str], rng: random.Random, *, joined: bool) -> str:
    """A name in the shape of `name` that is not among the known ones.

    Args:
        name: as it stands in a prompt.
        known: names whose words may be joined.
        joined: join words of known names of as many words, where there are some; else spell it anew.
    """
    words = name.split()
    alike = [other.split() for other in known if len(other.split()) == len(words)]
    found = name
    for _ in range(TRIES):
        if joined and len(words) > 1 and len(alike) > 1:
            found = " ".join(rng.choice(alike)[i] for i in range(len(words)))
        else:
            found = "".join(_letter(letter, rng) for letter in name)
        if found not in known:
            break
    return found


def _letter(letter: str, rng: random.Random) -> str:
    """Another of the same kind: a vowel for a vowel, a digit for a digit, large for large."""
    small = letter.lower()
    if small.isdigit():
        return rng.choice(DIGITS)
    if not small.isalpha():
        return letter
    found = rng.choice(VOWELS if small in VOWELS else CONSONANTS)
    return found.upper() if letter != small else found
