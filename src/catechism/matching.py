"""Whether a free answer says something: matching at word borders that is not fooled by spelling.

Case, full-width and other compatibility forms, white space, typographic quotes and hyphens, and a leading English
article do not matter. Accents do, except as NFKC composes them. ``docs/scoring.md`` has the rules with examples.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_SPELLING = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u02bc\uff07", "'"),
        **dict.fromkeys("\u201c\u201d\u00ab\u00bb", '"'),
        **dict.fromkeys("\u2010\u2011\u2212", "-"),  # hyphens and the minus sign; dashes separate words
        **dict.fromkeys("\u00ad\u200b\u2060\ufeff", None),  # invisible
    }
)
_ARTICLE = re.compile(r"(?:the|an|a) (?=\S)")
_ENDS_IN_ARTICLE = re.compile(r"(?:^|\W)(?:the|an|a) $")
#: Scripts written without spaces between words, where a word border cannot be seen.
_UNSPACED = ("CJK", "HIRAGANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR")

#: An answer of more words is a sentence: nobody says it again word for word.
NAME_WORDS = 6
#: Share of what a sentence tells that has to be there.
CONVEYED = 0.9
_PLAIN_WORD = re.compile(r"[^\W_]+(?:[.,-][^\W_]+)*")
#: Words that say how a sentence is built and not what it tells.
_FORM = frozenset(
    "a about also an and are as at be been but by for from had has have he her his in into is it its not of on or s "
    "she that the their these they this those to was were which who with".split()
)

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Folded:
    """A text with the differences that do not matter taken out.

    Attributes:
        text: NFKC, case folded, single spaces.
        is_upper: for each character of `text`, whether it came from a capital.
    """

    text: str
    is_upper: tuple[bool, ...]


def fold(text: str) -> Folded:
    """Fold a text for matching."""
    if text.isascii():  # the same as below, in one go
        plain = " ".join(text.split())
        return Folded(plain.lower(), tuple(map(str.isupper, plain)))
    plain = unicodedata.normalize("NFKC", text.translate(_SPELLING)).translate(_SPELLING)
    chars: list[str] = []
    upper: list[bool] = []
    for char in " ".join(plain.split()):
        folded = char.casefold()
        chars.append(folded)
        upper.extend([char.isupper() or char.istitle()] * len(folded))
    return Folded("".join(chars), tuple(upper))


def name_key(text: str) -> str:
    """What two spellings of one name have in common: folded, without leading article and final full stop."""
    return _core(fold(text))[0]


def contains(text: str, answer: str) -> bool:
    """Whether `text` says `answer`, at word borders. An empty answer is never said."""
    return bool(_occurrences(fold(text), fold(answer)))


def passes(text: str, accept: Sequence[str], reject: Sequence[str] = ()) -> bool:
    """Whether a free answer says one of `accept` and none of `reject`.

    An occurrence that lies inside a longer one from the other list does not count: in "Equatorial Guinea" nobody
    says "Guinea". With an empty `accept` only the absence of `reject` is asked for; with both empty nothing passes.
    """
    folded = fold(text)
    good = [span for answer in accept for span in _occurrences(folded, fold(answer))]
    bad = [span for answer in reject for span in _occurrences(folded, fold(answer))]
    if any(not _is_inside_one_of(span, good) for span in bad):
        return False
    if not accept:
        return bool(reject)
    return any(not _is_inside_one_of(span, bad) for span in good)


def says(text: str, accept: Sequence[str], asked: str) -> bool:
    """Whether a free answer to `asked` says one of `accept`: at word borders, or of a sentence what it tells."""
    return passes(text, accept) or any(conveys(text, answer, asked) for answer in accept)


def conveys(text: str, answer: str, asked: str) -> bool:
    """Whether a text tells what a sentence tells beyond its question; False for a name, which has to be said.

    What it tells are its words without those of the question and those that every sentence is built of. `CONVEYED` of
    them must be in the text, in their order: ROUGE-L recall on the words that matter. Over all words a wrong answer in
    the form of the right one would do.
    """
    words = _plain_words(answer)
    if len(words) <= NAME_WORDS:
        return False
    known = _FORM | set(_plain_words(asked))
    told = [word for word in words if word not in known]
    return bool(told) and _in_common(told, _plain_words(text)) >= CONVEYED * len(told)


def _plain_words(text: str) -> list[str]:
    return _PLAIN_WORD.findall(fold(text).text)


def _in_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        above = 0
        for j, y in enumerate(b, 1):
            above, row[j] = row[j], above + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def is_exactly(text: str, accept: Sequence[str]) -> bool:
    """Whether the first line of a free answer is one of `accept` and nothing else, end punctuation aside."""
    said = _core(fold(_unquoted(first_line(text))))[0]
    return bool(said) and any(said == _core(fold(_unquoted(answer)))[0] for answer in accept)


def first_line(text: str) -> str:
    """The first line of a free answer, trimmed; what locality compares."""
    lines = text.strip().splitlines()
    return lines[0].strip() if lines else ""


def _occurrences(text: Folded, answer: Folded) -> list[Span]:
    """Where the answer, without its leading article, stands in the text."""
    core, start = _core(answer)
    if not core:
        return []
    capital = start > 0 and answer.is_upper[start]
    opening = _ARTICLE.match(text.text)
    openings = (0, opening.end() if opening else 0)
    found: list[Span] = []
    at = text.text.find(core)
    while at >= 0:
        end = at + len(core)
        if not _joins(text.text, at) and not _joins(text.text, end):
            # "The Who" is not said by "one who": without its article the name must open the text or keep its capital.
            lone = capital and at not in openings and not _ENDS_IN_ARTICLE.search(text.text[:at])
            if not lone or text.is_upper[at]:
                found.append((at, end))
        at = text.text.find(core, at + 1)
    return found


def _core(answer: Folded) -> tuple[str, int]:
    """The answer without leading article and final full stop, and where it begins in the folded answer."""
    article = _ARTICLE.match(answer.text)
    start = article.end() if article else 0
    return answer.text[start:].rstrip(".") or answer.text[start:], start


def _is_inside_one_of(span: Span, others: list[Span]) -> bool:
    return any(a <= span[0] and span[1] <= b and (a, b) != span for a, b in others)


def _unquoted(text: str) -> str:
    return text.strip().strip("\"'\u2018\u2019\u201c\u201d").rstrip(".,;:!? ").strip("\"'\u2018\u2019\u201c\u201d")


def _joins(text: str, at: int) -> bool:
    """Whether the characters on both sides of position `at` belong to one word, so that no word ends there."""
    if at <= 0 or at >= len(text):
        return False
    left, right = text[at - 1], text[at]
    before, after = text[at - 2 : at - 1], text[at + 1 : at + 2]
    if unicodedata.category(right).startswith("M"):
        return True  # an accent or vowel sign belongs to the letter before it
    if _is_word(left) and _is_word(right):
        script = _script(right)
        return script == _script(left) and script != "unspaced"
    if right == "-":
        return left.isalpha() and after.isalpha()  # Guinea|-Bissau
    if left == "-":
        return (before.isalpha() and right.isalpha()) or (right.isdigit() and not before.strip())  # or a minus sign
    if right in "+#":
        return left.isalpha()  # C|++, C|#
    if left in ".,":
        return before.isdigit() and right.isdigit()
    return right in ".," and left.isdigit() and after.isdigit()  # 1|.5, 3|,000


def _is_word(char: str) -> bool:
    return char == "_" or unicodedata.category(char)[0] in "LMN"


def _script(char: str) -> str:
    name = unicodedata.name(char, "")
    if name.startswith("KATAKANA"):
        return "katakana"  # unspaced too, but a run of it is one word
    return "unspaced" if name.startswith(_UNSPACED) else "spaced"
