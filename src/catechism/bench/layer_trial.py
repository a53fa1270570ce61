"""The layer that holds many facts, found by trying."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from catechism.errors import CatechismError
from catechism.methods.registry import Method
from catechism.model import LiveModel
from catechism.types import JSON, UNMOVED, Catechism, Role

TRIED = 24  # facts that are learned together in every layer


def layer_by_trial(
    editor: Method, live: LiveModel, catechisms: Sequence[Catechism], *, seed: int
) -> tuple[int, list[JSON]]:
    """The layer in which the first `TRIED` facts hold best together, and what every layer came to, best first.

    Where one fact is written best is not where many are: a layer before attention has one key for a subject, which any
    other fact's is near to. Judged by nothing of the exam: the share of canonical and studied prompts that get their
    answer, token by token, times the share of studied ones that had theirs and have it still. A layer in which the
    method fails comes to 0; of equal ones the lower is taken.
    """
    facts = catechisms[:TRIED]
    moved = [(one.fact.prompt, one.fact.object) for one in facts]
    moved += [(q.text, one.fact.object) for one in facts for q in one.study if q.kind not in UNMOVED]
    still = [(q.text, q.accept[0]) for one in facts for q in one.study if q.kind in UNMOVED and q.accept]
    known = [pair for pair, said in zip(still, _said(live, still), strict=True) if said]
    tried: list[tuple[float, int, float, float]] = []
    for site in live.anatomy.sites(Role.MLP_OUT):
        spec: Any = editor.Spec(layer=site.layer, seed=seed)
        try:
            with live.with_delta(editor.fit(live, facts, spec)):
                learned, kept = _share(live, moved), _share(live, known)
        except CatechismError:
            learned, kept = 0.0, 0.0
        tried.append((learned * kept, site.layer, learned, kept))
    tried.sort(key=lambda one: (-one[0], one[1]))
    ranking: list[JSON] = [
        {"layer": layer, "score": score, "learned": learned, "kept": kept} for score, layer, learned, kept in tried
    ]
    return tried[0][1], ranking


def _share(live: LiveModel, pairs: Sequence[tuple[str, str]]) -> float:
    said = _said(live, pairs)
    return sum(said) / len(said) if said else 1.0


def _said(live: LiveModel, pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether the answer is the first choice, token by token."""
    if not pairs:
        return []
    return [one.argmax_match for one in live.score([prompt for prompt, _ in pairs], [answer for _, answer in pairs])]
