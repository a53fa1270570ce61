"""The printable page of a certificate: plain text in, one HTML file out that needs nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, StrictUndefined


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with lines of name and value."""

    title: str
    lines: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Measure:
    """One row of the table, every cell as it is printed."""

    name: str
    value: str
    interval: str = ""
    control: str = ""
    before: str = ""
    n: str = ""
    tells: str = ""


@dataclass(frozen=True, slots=True)
class CertificatePage:
    """Everything that stands on the page.

    Attributes:
        title: its heading. intro: a line below it.
        verdict: in one word. meaning: what the word means. reasons: for it, in sentences.
        sections: what was asked, what was done, who answers for it.
        rows: what was tried.
        limits: what is not shown, in sentences.
        check: how to verify the certificate.
    """

    title: str
    intro: str
    verdict: str
    meaning: str
    reasons: Sequence[str]
    sections: Sequence[Section]
    rows: Sequence[Measure]
    limits: Sequence[str]
    check: str


def certificate_html(page: CertificatePage) -> bytes:
    """The page as UTF-8. Whatever is in it is text: nothing in it can become a tag."""
    template = (resources.files("catechism.page") / "certificate.html").read_text(encoding="utf-8")
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(template)
    return made.render(page=page).encode()
