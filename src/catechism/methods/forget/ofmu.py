"""Penalty bi-level unlearning with gradients that are turned away from each other (OFMU). arXiv:2509.22483.

    Phi = L_f - b cos(g_f, g_r),  L_f = mean over answer tokens of min(nll_t(y), log v)                     # Eq. 1
    inner, T times:  theta <- theta + eta D grad Phi                                                        # Eq. 2
    outer:  theta <- theta - eta D (alpha grad L_r + 2 rho_k H_f grad Phi),  rho_k rises                   # Eq. 3

    grad cos = H_f u_f + H_r u_r,  u_f, u_r  the cosine's derivatives by the two gradients                  # Eq. 4

    y the answer to forget;  g_f, g_r, H_f, H_r  gradients and Hessians of L_f and L_r, the latter as `Training.keep`
    says;  D  Adam's scaling, for gradients of the side paths differ by orders of magnitude;  v the vocabulary

L_f is raised, L_r is lowered, and where raising one would raise the other the step is turned away. Cross-entropy can be
raised for ever; log v, that of an answer picked blindly, is enough.

Deviations: see docs/forget-trained.md for those that all trained methods share. The equations are known from accounts
of the paper; Eq. 4 is our own. Products with Hessians are central differences of gradients. In Eq. 3 the Hessian of Phi
is that of L_f: what b times the cosine adds is of third order. b, eta and rho are published nowhere that we know of.
The cosine's gradient is as long as those it compares are short: of an answer that the model is sure of it is thousands
of times as long as L_f's, and nothing is ever forgotten. So its length is bounded by a share of L_f's, `most`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from catechism.model.forgetting.fitting import TrainedForgetter
from catechism.model.forgetting.objective import Step, Terms, Turn
from catechism.model.forgetting.training import Training, check_above
from catechism.solve.forgetting import away_from, capped_ascent, combined, inner

SOURCE = "arXiv:2509.22483"

NUDGE = 1e-2  # length of the step of a central difference; float32 gradients of a smooth loss do with it


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own. A step costs three to four of another method's."""

    b: float = 0.1  # not published
    most: float = 0.5  # ours: length of b grad cos, as a share of grad L_f's, at most
    inner_steps: int = 1  # published: 5 to 10
    rho: float = 1e-3  # not published; it rises
    growth: float = 1.2
    rho_max: float = 1e-1
    steps: int = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above("b", self.b, equal=True)
        check_above("most", self.most, equal=True)
        check_above("inner_steps", self.inner_steps, 1, equal=True)
        check_above("rho", self.rho, equal=True)
        check_above("growth", self.growth, 1, equal=True)
        check_above("rho_max", self.rho_max, equal=True)


class OFMU(TrainedForgetter[Spec]):
    """The method."""

    name = "ofmu"
    Spec = Spec

    def terms(self, step: Step, spec: Spec) -> Terms:
        """-L_f of Eq. 1, and L_r."""
        said = step.forget
        cap = math.log(said.logprobs.shape[1])
        return {"forget": said.over_tokens(capped_ascent(said.chosen, cap)), **step.retained()}

    def direct(self, turn: Turn, spec: Spec) -> tuple[list[Tensor], Terms]:
        """The inner loop, in place, and the outer step. The term "forget" is -L_f, so Phi's signs are turned round."""
        found: Terms = {}
        lowered: list[Tensor] = []
        for _ in range(spec.inner_steps):
            found = turn.terms()
            lowered = similarity_aware(turn, found, spec.b, spec.most)  # -grad Phi
            turn.moments.see(lowered)
            with torch.no_grad():
                for parameter, change in zip(turn.parameters, turn.moments.precondition(lowered), strict=True):
                    parameter -= turn.rate * change  # Eq. 2
        rho = min(spec.rho * spec.growth**turn.step.number, spec.rho_max)
        kept = turn.gradient(turn.terms()["retain"])
        bent = along(turn, "forget", lowered)  # H_f grad Phi: both signs are turned
        outer = combined(kept, bent, a_times=turn.alpha, b_times=2 * rho)
        turn.moments.see(outer)
        return turn.moments.precondition(outer), found  # Eq. 3


def similarity_aware(turn: Turn, found: Terms, b: float, most: float = math.inf) -> list[Tensor]:
    """Gradient of -Phi = forget - b cos(grad forget, grad retain).  # Eq. 1, Eq. 4

    Args:
        most: length of the second part at most, as a share of the first one's.
    """
    g_f, g_r = turn.gradient(found["forget"]), turn.gradient(found["retain"])
    if b == 0:
        return g_f
    forget = along(turn, "forget", away_from(g_f, g_r))
    retain = along(turn, "retain", away_from(g_r, g_f))
    turned = combined(forget, retain, a_times=1.0, b_times=1.0)
    size = math.sqrt(inner(turned, turned))
    bound = most * math.sqrt(inner(g_f, g_f)) / size if size > 0 else 0.0
    return combined(g_f, turned, a_times=1.0, b_times=-min(b, bound))


def along(turn: Turn, name: str, direction: list[Tensor]) -> list[Tensor]:
    """The Hessian of one loss times a direction: (g(theta + e d) - g(theta - e d)) / 2e. Parameters come back."""
    size = math.sqrt(inner(direction, direction))
    if size == 0:
        return [torch.zeros_like(x) for x in direction]
    e, kept, sides = NUDGE / size, [p.detach().clone() for p in turn.parameters], list[list[Tensor]]()
    for sign in (1.0, -1.0):
        with torch.no_grad():
            for parameter, start, d in zip(turn.parameters, kept, direction, strict=True):
                parameter.copy_(start + sign * e * d)
        sides.append(turn.gradient(turn.terms()[name]))
    with torch.no_grad():
        for parameter, start in zip(turn.parameters, kept, strict=True):
            parameter.copy_(start)
    return combined(sides[0], sides[1], a_times=1 / (2 * e), b_times=-1 / (2 * e))
