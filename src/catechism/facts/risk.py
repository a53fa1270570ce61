"""How much harm a wrong edit could do: classes raised by rule, never lowered.

A rule is a name, the class it raises to, and a pattern that is looked for in everything a fact says. The classes are
ordered, low < standard < high < finance < legal < medical < safety; a fact gets the highest of its own class and
those of the rules that fit. The patterns are English and err on the side of caution: a fact that is raised without
need costs an approval, one that is missed may cost more. ``docs/feed-format.md`` lists the rules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from catechism.types import Fact, Risk

#: From the least harm to the most.
ORDER = (Risk.LOW, Risk.STANDARD, Risk.HIGH, Risk.FINANCE, Risk.LEGAL, Risk.MEDICAL, Risk.SAFETY)

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Words:
    """Words and phrases, in any case; ``*`` at the end of one stands for any ending."""

    heads: frozenset[str]
    pattern: re.Pattern[str]

    @classmethod
    def of(cls, *words: str) -> Words:
        """The words, ready to be looked for."""
        inner = "|".join(re.escape(word).replace(r"\*", r"\w*").replace(r"\ ", r"\s+") for word in words)
        return cls(_heads(" ".join(words)), re.compile(rf"(?<!\w)(?:{inner})(?!\w)", re.IGNORECASE))

    def search(self, text: str) -> re.Match[str] | None:
        """The first of them in a text; how the text's words begin rules most texts out quickly."""
        return None if self.heads.isdisjoint(_heads(text)) else self.pattern.search(text)


def _heads(text: str) -> frozenset[str]:
    """The first three letters of every word."""
    return frozenset(word[:3] for word in _WORD.findall(text.lower()))


@dataclass(frozen=True, slots=True)
class Rule:
    """A class that a fact is raised to at least, if the pattern is found in it.

    Attributes:
        name: what it is called in reports.
        risk: the least class.
        pattern: looked for in the fact's texts.
    """

    name: str
    risk: Risk
    pattern: re.Pattern[str] | Words


@dataclass(frozen=True, slots=True)
class Raised:
    """A rule that fits a fact, with the words that it found."""

    rule: str
    risk: Risk
    found: str


@dataclass(frozen=True, slots=True)
class Assessment:
    """The risk class of a fact and why.

    Attributes:
        risk: the highest of the fact's own class and those of the rules.
        raised: every rule that fits, the highest class first. What fits is listed even if the fact's class is higher.
    """

    risk: Risk
    raised: tuple[Raised, ...]


RULES: tuple[Rule, ...] = (
    Rule(
        "weapons and explosives",
        Risk.SAFETY,
        Words.of(
            *("weapon*", "explosive*", "bomb", "bombs", "grenade*", "ammunition", "firearm*", "detonat*", "landmine*"),
            *("nerve agent*", "chemical warfare", "biological warfare", "uranium enrichment", "sarin", "ricin"),
        ),
    ),
    Rule(
        "danger to life",
        Risk.SAFETY,
        Words.of(
            *("poison*", "toxic*", "lethal*", "suicid*", "self-harm", "carbon monoxide", "asphyxia*", "electrocut*"),
            *("emergency number", "emergency exit*", "evacuat*", "fire extinguisher*", "flammab*", "flash point"),
            *("maximum load", "safe working load", "life jacket*", "seat belt*", "airbag*", "high voltage"),
        ),
    ),
    Rule(
        "dosage and units",
        Risk.MEDICAL,
        re.compile(r"(?<![\w.])\d+(?:[.,]\d+)?\s*(?:mg|mcg|µg|μg|ug|ml|mL|IU|mmol|mEq)(?:\s*/\s*\w+)?(?!\w)"),
    ),
    Rule(
        "drugs, diseases and treatment",
        Risk.MEDICAL,
        Words.of(
            *("dose*", "dosage*", "overdos*", "medication*", "medicine*", "medicinal", "drug", "drugs", "vaccin*"),
            *("antibiotic*", "antidote*", "painkiller*", "contraindicat*", "side effect*", "prescri*", "chemotherapy"),
            *("disease*", "disorder*", "syndrome*", "symptom*", "diagnos*", "cancer*", "tumour*", "tumor*", "diabet*"),
            *("infection*", "therapy", "therapies", "treatment of", "treatment for", "surgery", "pregnan*", "allerg*"),
            *("insulin", "aspirin", "ibuprofen", "paracetamol", "acetaminophen", "warfarin", "heparin", "morphine"),
            *("metformin", "lithium carbonate", "epinephrine", "adrenaline", "methadone", "fentanyl", "naloxone"),
            *("blood pressure", "blood type", "heart attack", "stroke", "asthma", "epilep*", "hepat*", "malaria"),
        ),
    ),
    Rule(
        "names of drugs and inflammations",
        Risk.MEDICAL,
        re.compile(r"(?<!\w)\w{2,}(?:cillin|mycin|oxacin|azole|statin|prazole|sartan|olol|itis)(?!\w)", re.IGNORECASE),
    ),
    Rule(
        "statutes",
        Risk.LEGAL,
        re.compile(
            r"§|(?<!\w)(?:Art\.|Article|Section)\s+\d+|(?<!\w)U\.S\.C\.|(?<!\w)Act\s+of\s+\d{4}"
            r"|(?<!\w)(?:Directive|Regulation)\s+(?:\(\w+\)\s+)?(?:No\.?\s+)?\d+"
        ),
    ),
    Rule(
        "law and punishment",
        Risk.LEGAL,
        Words.of(
            *("statute*", "unlawful*", "illegal*", "legal limit", "legally", "age of consent", "drinking age"),
            *("lawsuit*", "liabilit*", "convict*", "sentenced", "penalty for", "fine for", "crime*", "felony"),
            *("copyright*", "patent law", "visa requirement*", "asylum", "custody", "limitation period"),
        ),
    ),
    Rule(
        "money advice",
        Risk.FINANCE,
        Words.of(
            *("invest", "invests", "investing", "investment*", "investor*", "interest rate*", "mortgage*", "loan*"),
            *("share price*", "stock price*", "stocks", "dividend*", "bond yield*", "exchange rate*", "tax", "taxes"),
            *("tax rate*", "taxation", "pension*", "credit score*", "insurance premium*", "annuit*", "cryptocurrenc*"),
        ),
    ),
    Rule(
        "personal data",
        Risk.HIGH,
        re.compile(
            r"(?<![\w.+-])[\w.+-]+@[\w-]+\.\w+|(?<!\w)\+\d[\d ()-]{7,}\d"
            r"|(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?!\w)"
            r"|(?<!\w)(?:passport|social security|identity card) number",
            re.IGNORECASE,
        ),
    ),
    Rule(
        "elections",
        Risk.HIGH,
        Words.of("election*", "polling station*", "polling place*", "ballot*", "voter*", "referendum*"),
    ),
    Rule(
        "named persons",
        Risk.STANDARD,
        re.compile(
            r"(?<!\w)(?:Mr|Mrs|Ms|Dr|Prof|Sir|Dame|Lord|Lady|President|Minister|Senator|Judge|Saint)\.?\s+[A-Z]"
            r"|(?<!\w)(?:was born|is married|married to|died (?:in|on)|works as|lives (?:in|on)|(?:wife|husband|"
            r"father|mother|son|daughter|brother|sister) of)(?!\w)"
        ),
    ),
)

#: Fields of knowledge, as feeds name them, with the class that their facts have at least.
DOMAINS: tuple[tuple[Words, Risk], ...] = (
    (Words.of("safety", "security", "emergenc*", "defence", "defense", "military"), Risk.SAFETY),
    (Words.of("medic*", "health*", "pharma*", "clinical*", "nursing", "dentistry"), Risk.MEDICAL),
    (Words.of("law", "laws", "legal", "legislation", "regulat*", "compliance"), Risk.LEGAL),
    (Words.of("financ*", "banking", "tax*", "insurance", "invest*", "econom*"), Risk.FINANCE),
)


def assess(fact: Fact) -> Assessment:
    """The risk class of a fact, with every rule that raised it or would have."""
    said = f"{fact.prompt} {fact.object}\n{fact.statement}\n{fact.old_object or ''}\n{fact.relation or ''}"
    raised = [Raised(rule.name, rule.risk, m.group()) for rule in RULES if (m := rule.pattern.search(said))]
    raised += [Raised("domain", risk, m.group()) for pattern, risk in DOMAINS if (m := pattern.search(fact.domain))]
    raised.sort(key=lambda one: -ORDER.index(one.risk))
    return Assessment(max([fact.risk, *(one.risk for one in raised)], key=ORDER.index), tuple(raised))


def raise_risk(fact: Fact) -> Fact:
    """The fact with the class that the rules give it; the same fact where they raise nothing."""
    risk = assess(fact).risk
    return fact if risk is fact.risk else replace(fact, risk=risk)
