"""How much of the answer sits in the weights word for word: extraction strength, exact memorisation, probability, truth
ratio. Teacher-forced, per fact."""

from __future__ import annotations

import math
from collections.abc import Sequence

from catechism.evaluate.audit.items import Item
from catechism.model import LiveModel

TINY = 1e-10  # below the truth ratio's denominator


def memorisation(live: LiveModel, items: Sequence[Item]) -> dict[str, list[float]]:
    """Extraction strength, exact memorisation and probability of each answer after its canonical prompt.

    With T answer tokens of which the model's first choices match from the k-th on (k counted from 0):

        extraction strength = 1 - k / T, so 0 where the last one does not match
        exact memorisation  = share of the T tokens that match
        probability         = exp(mean log-probability of the T tokens)

    Source: MUSE and OpenUnlearning's definitions; arXiv:2407.06460, arXiv:2506.12618.
    """
    prompts, answers = [item.asked[0] for item in items], [item.fact.object for item in items]
    pairs = live.encode_pairs(prompts, answers)
    scores = live.score(prompts, answers)
    matches = [
        [token == choice for token, choice in zip(row[start:end], score.choices, strict=True)]
        for row, (start, end), score in zip(pairs.input_ids.tolist(), pairs.spans, scores, strict=True)
    ]
    return {
        "extraction_strength": [extraction_strength(row) for row in matches],
        "exact_memorisation": [sum(row) / len(row) for row in matches],
        "probability": [min(1.0, math.exp(score.mean)) for score in scores],
    }


def extraction_strength(matches: Sequence[bool]) -> float:
    """1 - k / T for matches of T tokens, k the first place from which all match.

    Published code has 1 / T where even the last does not match, which calls a missed answer of one token memorised.
    """
    k = len(matches)
    while k and matches[k - 1]:
        k -= 1
    return 1 - k / len(matches)


def truth_ratio(live: LiveModel, items: Sequence[Item]) -> list[float]:
    """Per fact: how likely wrong answers are beside the right one, on a phrasing other than the canonical one.

        TR = exp(-mean NLL of the wrong answers) / (exp(-NLL of the right one) + 1e-10)

    NLL is per token. A model that knows has it near 0, one that never learned about 1. nan without wrong answers.
    Source: TOFU, arXiv:2401.06121.
    """
    pairs: list[tuple[str, str]] = []
    for item in items:
        prompt = item.asked[min(1, len(item.asked) - 1)]
        pairs += [(prompt, answer) for answer in (item.fact.object, *item.rivals)]
    scores = iter(live.score([p for p, _ in pairs], [a for _, a in pairs]))
    found: list[float] = []
    for item in items:
        right = next(scores).mean
        wrong = [next(scores).mean for _ in item.rivals]
        found.append(ratio(right, wrong) if wrong else math.nan)
    return found


def ratio(right: float, wrong: Sequence[float]) -> float:
    """The truth ratio from log-probabilities per token."""
    return math.exp(math.fsum(wrong) / len(wrong)) / (math.exp(right) + TINY)
