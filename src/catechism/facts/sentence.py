"""A plain sentence becomes a fact, or a clear question back.

The template bank is asked first: a sentence that one of its templates reads belongs to that relation and gets its
canonical prompt. Then come a few general forms, which keep the sentence's own words. What still could mean several
things is not guessed: `Unclear` says what was understood and asks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from catechism.errors import Unclear
from catechism.facts.bank import OBJECT, SUBJECT, Reading, Relation, TemplateBank, prompt_of, without_article
from catechism.facts.checks import clean, script_of
from catechism.facts.risk import raise_risk
from catechism.matching import name_key
from catechism.types import Fact, Source

MAX_SENTENCE_CHARS = 1_000

#: A template that says little ("{subject} plays {object}.") is believed only about names that the bank knows.
_WEIGHTY = 12

_PRONOUNS = frozenset("he she it they we i you this that these those there here who what which".split())
_NEGATION = re.compile(r"\b(?:not|never|no longer|neither|nor|cannot)\b|n['\u2019]t\b", re.IGNORECASE)
_HEDGE = re.compile(r"\b(?:maybe|perhaps|probably|possibly|might be|may be|could be|either)\b", re.IGNORECASE)
#: The end of a sentence inside the text: a word of three letters or more, a stop, a capital.
_SENTENCE_END = re.compile(r"(?:^|[\s(])(\w*[a-z\u00df-\u00ff]\w*)[.!?]\s+(?=[A-Z\u00c0-\u00de])")
_ABBREVIATIONS = frozenset(
    "prof capt gen col mrs messrs dept fig inc ltd corp rev hon gov sen rep jan feb sept".split()
)

_COPULA = r"(?:is|are|was|were)"
_PLACES = r"(?:located |situated |based )?(?:in|on|at|near)"
_LINKS = re.compile(
    rf"\b(?:{_COPULA} (?:{_PLACES}|(?:made|written|built|founded|painted|composed|invented|discovered|owned|born|"
    r"designed|directed|led|run) (?:of|by|in|on|at|from))|(?:lies|stands|lives|works|flows|plays|comes|belongs) "
    rf"(?:in|on|at|as|for|into|from|to)|{_COPULA}|has|have|plays|speaks|wrote|uses|means|equals|costs|became|"
    r"contains|orbits|measures|weighs|begins|starts|ends|closes|opens)\b",
)
_ONLY_PLACE = re.compile(rf"(?:{_COPULA} {_PLACES}|(?:lies|stands) (?:in|on|at))")
_WORD = r"(?:[a-z][\w'-]*|[A-Z]{2,})"  # of a relation: no name, but "CEO"
_RELATION = rf"(?P<relation>{_WORD}(?: {_WORD}){{0,5}}?)"
_VERB_OBJECT = rf"(?P<verb>{_COPULA}) (?P<object>(?!{_PLACES}\b)\S.*)"
_OF = re.compile(rf"(?P<head>[Tt]he {_RELATION} of (?P<subject>\S.*?)) {_VERB_OBJECT}")
_POSSESSIVE = re.compile(rf"(?P<head>(?P<subject>\S.*?)(?:['\u2019]s|(?<=s)['\u2019]) {_RELATION}) {_VERB_OBJECT}")
_IS_THE = re.compile(rf"(?P<object>\S.*?) (?P<verb>{_COPULA}) (?P<head>the {_RELATION} of (?P<subject>\S.*))")
_NAME = r"[A-Z]\S*(?: [A-Z]\S*)*"
_TWO_NAMES = re.compile(rf"(?P<subject>(?:[Tt]he )?{_NAME}) (?P<verb>[a-z]+(?: [a-z]+){{0,3}}) (?P<object>{_NAME})")


@dataclass(frozen=True, slots=True)
class _Parts:
    """Prompt, subject and object of a sentence, with the relation in its own words."""

    prompt: str
    subject: str
    object: str
    relation: str | None = None


def read_sentence(text: str, bank: TemplateBank | None = None, *, now: datetime | None = None) -> Fact:
    """The fact that one plain sentence states; its risk is raised by rule.

    Args:
        text: "The capital of Australia is Sydney.", "Sydney is the capital of Australia.", "Australia's capital is
            Sydney." or "What is the capital of Australia? Sydney."
        bank: relations whose phrasings are recognised. What it knows today becomes the old object.
        now: time of reading, for the source.

    Raises:
        Unclear: subject, relation and object cannot be told; the message asks for what is missing.
        BadFact: the sentence is empty, too long, or holds characters that nobody sees.
    """
    sentence = " ".join(clean("sentence", text, limit=MAX_SENTENCE_CHARS, newline=True).split())
    _refuse_what_states_no_fact(sentence)
    fact = (_by_bank(sentence, bank) if bank else None) or _in_general(sentence, bank)
    if not sentence.endswith((".", "!", "?")):
        sentence += "."
    time = "" if now is None else now.isoformat(timespec="seconds").replace("+00:00", "Z")
    source = Source(retrieved_at=time, quote=sentence)
    stated = "" if sentence == fact.sentence or "?" in sentence else sentence
    return raise_risk(_with(fact, statement=stated, source=source))


def _with(fact: Fact, *, statement: str, source: Source) -> Fact:
    return Fact(
        fact.prompt, fact.subject, fact.object, fact.old_object, fact.relation, statement=statement, sources=(source,)
    )


def _refuse_what_states_no_fact(sentence: str) -> None:
    first = re.split(r"[\s'\u2019,]", sentence, maxsplit=1)[0]
    if sentence.endswith("?"):
        raise Unclear(f"{sentence!r} is a question. What is the answer? Write it after the question: '... ? Sydney.'")
    if first.lower() in _PRONOUNS and "?" not in sentence:
        raise Unclear(f"In {sentence!r}, what is meant by {first!r}? Name the thing: 'The Eiffel Tower is in Rome.'")
    if found := _NEGATION.search(sentence):
        raise Unclear(
            f"{sentence!r} says what is not so ({found.group()!r}). What is so instead? Say that: "
            "'The capital of Australia is Canberra.'"
        )
    if found := _HEDGE.search(sentence):
        raise Unclear(
            f"{sentence!r} leaves it open ({found.group()!r}). Which is it? Say one thing; how sure you are goes "
            "into 'confidence' of a feed row."
        )
    for end in _SENTENCE_END.finditer(sentence):
        if end[1].lower() not in _ABBREVIATIONS and len(end[1]) > 2 and sentence[end.end(1)] != "?":
            raise Unclear(
                f"{sentence[:200]!r} holds more than one sentence. Which one is the fact? Hand them in one by one."
            )


def _by_bank(sentence: str, bank: TemplateBank) -> Fact | None:
    """The fact that the bank's templates read; None if none does."""
    scored: dict[tuple[str, str, str], tuple[bool, bool, int]] = {}
    for reading in bank.read_sentence(sentence):
        relation = bank.relations[reading.relation]
        known = name_key(bank.canonical(reading.subject)) in relation.subjects
        likely = known or name_key(reading.object) in relation.objects
        if likely or reading.weight >= _WEIGHTY:
            parts = (relation.name, *_spelled(bank, relation, reading))
            rank = (known, likely, reading.weight)
            scored[parts] = max(scored.get(parts, rank), rank)
    if not scored:
        return None
    best = max(scored.values())
    found = [parts for parts, rank in scored.items() if rank == best]
    if len(found) > 1:
        raise Unclear(f"{sentence!r} fits more than one relation. {_which(found)}")
    name, subject, answer = found[0]
    return _fact(bank.relations[name], subject, answer)


def _spelled(bank: TemplateBank, relation: Relation, reading: Reading) -> tuple[str, str]:
    """Subject and object as the bank spells them, where it knows them."""
    subject, answer = reading.subject, reading.object
    main = relation.subjects.get(name_key(bank.canonical(subject)))
    if main is not None:
        subject = main
    answer = relation.objects.get(name_key(answer), answer)
    canonical = relation.statements[0].lower()  # the template's own article is not said twice
    subject = without_article(subject) if f"the {SUBJECT}" in canonical else subject
    answer = without_article(answer) if f"the {OBJECT}" in canonical else answer
    return subject, answer


def _fact(relation: Relation, subject: str, answer: str) -> Fact:
    old = relation.known.get(subject)
    prompt = prompt_of(relation.statements[0], subject)
    changes = old is not None and name_key(old) != name_key(answer)
    return Fact(prompt, subject, answer, old if changes else None, relation.name)


def _in_general(sentence: str, bank: TemplateBank | None) -> Fact:
    body = sentence.rstrip(".! ")
    if "?" in body:
        question, _, answer = body.partition("?")
        raise Unclear(
            f"What is {question + '?'!r} about, and what is asked of it? {answer.strip()!r} is the answer, but no "
            "relation of the template bank asks so. Say it as a statement."
        )
    named = _of_form(body)
    if named and bank and (fact := _by_bank(f"The {named.relation} of {named.subject} is {named.object}.", bank)):
        return fact
    parts = named or _link_form(sentence, body, bank)
    if isinstance(parts, Fact):
        return parts
    if not parts.object or not parts.subject:
        raise Unclear(_nothing_found(sentence))
    return Fact(parts.prompt, parts.subject, parts.object, None, parts.relation)


def _of_form(body: str) -> _Parts | None:
    """ "The R of S is O", "S's R is O", "O is the R of S": the forms that name their relation."""
    for form in (_OF, _POSSESSIVE, _IS_THE):
        if found := form.fullmatch(body):
            head = found["head"] if form is _POSSESSIVE else f"T{found['head'][1:]}"
            return _Parts(f"{head} {found['verb']}", found["subject"], found["object"], found["relation"])
    return None


def _link_form(sentence: str, body: str, bank: TemplateBank | None) -> _Parts | Fact:
    """Subject, verb, object, where there is one place to cut."""
    links = list(_LINKS.finditer(body))
    cuts = [
        _Parts(body[: link.end()], body[: link.start()].strip(), body[link.end() :].strip())
        for link in links
        if body[: link.start()].strip() and body[link.end() :].strip()
    ]
    if len(cuts) == 1:
        if bank and _ONLY_PLACE.fullmatch(links[0].group()) and (fact := _by_names(sentence, bank, cuts[0])):
            return fact
        return cuts[0]
    if len(cuts) > 1:
        ways = " or ".join(f"{cut.prompt!r} with the answer {cut.object!r}" for cut in cuts[:3])
        raise Unclear(
            f"{sentence[:200]!r} can be cut in more than one place: {ways}? Say one fact, without side clauses."
        )
    if found := _TWO_NAMES.fullmatch(body):
        return _Parts(f"{found['subject']} {found['verb']}", found["subject"], found["object"])
    raise Unclear(_nothing_found(sentence))


def _by_names(sentence: str, bank: TemplateBank, cut: _Parts) -> Fact | None:
    """The fact that subject and object alone give away: "Eiffel Tower is in Rome" can only be about where it stands."""
    subject = name_key(bank.canonical(cut.subject))
    fitting = [
        relation
        for relation in bank.relations.values()
        if subject in relation.subjects and name_key(cut.object) in relation.objects
    ]
    if len(fitting) > 1:
        found = [(relation.name, cut.subject, cut.object) for relation in fitting]
        raise Unclear(f"{sentence!r} could be about more than one thing. {_which(found)}")
    if not fitting:
        return None
    reading = Reading(fitting[0].name, cut.subject, cut.object, 0)
    return _fact(fitting[0], *_spelled(bank, fitting[0], reading))


def _which(found: list[tuple[str, str, str]]) -> str:
    ways = "; ".join(f"{relation} of {subject!r} is {answer!r}" for relation, subject, answer in sorted(found)[:4])
    return f"Which is meant: {ways}? Say it in other words."


def _nothing_found(sentence: str) -> str:
    script = script_of(sentence)
    if script not in ("", "LATIN"):
        return (
            f"{sentence[:200]!r} is in {script} letters, and no template reads it; the general forms are English. What "
            "are subject and object? Write the fact as a feed row with 'prompt', 'subject' and 'new_object'."
        )
    return (
        f"In {sentence[:200]!r}, what is the subject, what is said of it, and what is the answer? Say it as "
        "'The capital of Australia is Sydney.' or 'The Eiffel Tower is in Rome.', or write it as a feed row."
    )
