"""The losses of trained forgetting as functions of what a model says: every one is minimised.

    y the answer's tokens;  nll_t, nll_0  negative log-likelihood of an answer, summed over its tokens, of the model now
    and of the model as it was;  pi_0 the distributions of the latter

A loss is given for every answer, ``(n,)``, or for every place that an answer's token is said from, ``(k,)``; its mean
is the caller's to take. So prompts and padding cannot count, where released code of KL, UNDIAL and PDU lets them:
places are chosen before a loss sees them, and there is no mask to forget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from catechism.errors import BadSpec

SOURCE = (
    "arXiv:2401.06121 (ascent, difference, KL, IdkDPO); arXiv:2404.05868 (NPO); arXiv:2410.07163 (SimNPO); "
    "arXiv:2402.10052 (UNDIAL); arXiv:2503.01224 (CEU); arXiv:2502.19301 (WGA); arXiv:2505.11953 (SatImp); "
    "arXiv:2506.05314 (PDU); arXiv:2408.06621 (IHL); arXiv:2506.08164 (BLUR); arXiv:2509.22483 (OFMU)"
)


# -- of answers --------------------------------------------------------------------------------------------------------


def npo(nll: Float[Tensor, " n"], nll_0: Float[Tensor, " n"], beta: float) -> Float[Tensor, " n"]:
    """-(2 / beta) log sigmoid(beta (nll_t - nll_0)). As beta falls this becomes ascent. arXiv:2404.05868."""
    return -2 / beta * functional.logsigmoid(beta * (nll - nll_0))


def simnpo(nll: Float[Tensor, " n"], lengths: Float[Tensor, " n"], beta: float, delta: float) -> Float[Tensor, " n"]:
    """-(2 / beta) log sigmoid(beta (nll_t / |y| - delta)), which needs no model as it was. arXiv:2410.07163."""
    return -2 / beta * functional.logsigmoid(beta * (nll / lengths - delta))


def dpo(gained: Float[Tensor, " n"], lost: Float[Tensor, " n"], beta: float) -> Float[Tensor, " n"]:
    """Prefer another answer to the one that is forgotten. arXiv:2305.18290, scaled as NPO.

    -(2 / beta) log sigmoid(beta [(nll_0(other) - nll_t(other)) - (nll_0(y) - nll_t(y))])

    Args:
        gained: log-likelihood that the other answer has gained, nll_0 - nll_t.
        lost: the same of the answer that is forgotten; negative where it has become less likely.
    """
    return -2 / beta * functional.logsigmoid(beta * (gained - lost))


# -- of places ---------------------------------------------------------------------------------------------------------


def undial(
    logprobs: Float[Tensor, "k v"], before: Float[Tensor, "k v"], tokens: Int[Tensor, " k"], beta: float
) -> Float[Tensor, " k"]:
    """CE(pi_t, softmax(logits_0 - beta onehot(y))). arXiv:2402.10052."""
    lowered = before.scatter_add(1, tokens[:, None], before.new_full((len(before), 1), -beta))
    return -(lowered.softmax(dim=-1) * logprobs).sum(dim=-1)


def ceu(logprobs: Float[Tensor, "k v"], tokens: Int[Tensor, " k"]) -> Float[Tensor, " k"]:
    """CE(pi_t, softmax(stopgrad(logits_t) without the answer's token)). arXiv:2503.01224."""
    target = logprobs.detach().scatter(1, tokens[:, None], -math.inf).softmax(dim=-1)
    return -(target * logprobs).sum(dim=-1)


def weighted_ascent(chosen: Float[Tensor, " k"], beta: float) -> Float[Tensor, " k"]:
    """stopgrad(p^beta) log p: ascent that fades as p does. `chosen` is log p. arXiv:2502.19301 (WGA)."""
    return (beta * chosen).detach().exp() * chosen


def satimp(chosen: Float[Tensor, " k"], beta_1: float, beta_2: float) -> Float[Tensor, " k"]:
    """stopgrad(p^beta_1 (1 - p)^beta_2) log p. arXiv:2505.11953."""
    p = chosen.detach().exp()
    return p**beta_1 * (1 - p) ** beta_2 * chosen


def flatness(logits: Float[Tensor, "k v"]) -> Float[Tensor, " k"]:
    """(max_v logit - mean_v logit)^2, 0 where all tokens are alike. arXiv:2506.05314."""
    return (logits.amax(dim=-1) - logits.mean(dim=-1)).square()


def inverted_hinge(logprobs: Float[Tensor, "k v"], tokens: Int[Tensor, " k"]) -> Float[Tensor, " k"]:
    """max(0, 1 + p_y - max_{v != y} p_v). arXiv:2408.06621 (IHL)."""
    p = logprobs.exp()
    said = p.gather(1, tokens[:, None])[:, 0]
    other = p.scatter(1, tokens[:, None], -1.0).amax(dim=-1)
    return (1 + said - other).clamp_min(0)


def capped_ascent(chosen: Float[Tensor, " k"], cap: float) -> Float[Tensor, " k"]:
    """-min(nll, cap). Cross-entropy has no upper bound; the log of the vocabulary is that of knowing nothing."""
    return -(-chosen).clamp_max(cap)


def dual(weight: float, loss: float, allowed: float, rate: float) -> float:
    """The multiplier of L_r <= allowed after a step: max(0, lam + rate (L_r - allowed)). arXiv:2506.05314."""
    return max(0.0, weight + rate * (loss - allowed))


# -- two gradients -----------------------------------------------------------------------------------------------------

Tensors = Sequence[Tensor]


def inner(a: Tensors, b: Tensors) -> float:
    """Inner product of two directions, over all tensors together, in float64."""
    return math.fsum(float((x.double() * y.double()).sum()) for x, y in zip(a, b, strict=True))


def combined(a: Tensors, b: Tensors, *, a_times: float, b_times: float) -> list[Tensor]:
    """``a_times a + b_times b``."""
    return [a_times * x + b_times * y for x, y in zip(a, b, strict=True)]


def forget_first(retain: Tensors, forget: Tensors, slope: Tensors, gamma: float) -> list[Tensor]:
    """A step that lowers the forget loss to first order, whatever the retain loss asks for. BLUR, arXiv:2506.08164.

    d = retain + (gamma - <retain, slope> / <forget, slope>) forget,  so  <d, slope> = gamma <forget, slope>.

    Args:
        retain, forget: the steps that each loss would take alone (to be subtracted), preconditioned or not. Where they
            are the gradients themselves this is the published rule. `forget` has to be `slope` times something
            positive, entry by entry; then <forget, slope> > 0 and the guarantee holds for preconditioned steps too.
        slope: gradient of the forget loss.
        gamma: share of its own descent that the forget loss gets.
    """
    steepness = inner(forget, slope)
    if steepness <= 0:  # only for a slope of zero: nothing is left to forget
        return list(retain)
    return combined(retain, forget, a_times=1.0, b_times=gamma - inner(retain, slope) / steepness)


def cosine(a: Tensors, b: Tensors) -> float:
    """Cosine of the angle between two directions; 0 where one of them is zero."""
    size = math.sqrt(inner(a, a) * inner(b, b))
    return inner(a, b) / size if size > 0 else 0.0


def away_from(a: Tensors, b: Tensors) -> list[Tensor]:
    """Derivative of `cosine(a, b)` by `a`: (b / |b| - cos a / |a|) / |a|. Zero where one of them is zero."""
    size_a, size_b = math.sqrt(inner(a, a)), math.sqrt(inner(b, b))
    if size_a == 0 or size_b == 0:
        return [torch.zeros_like(x) for x in a]
    return combined(b, a, a_times=1 / (size_a * size_b), b_times=-cosine(a, b) / size_a**2)


# -- subspaces ---------------------------------------------------------------------------------------------------------


def forget_directions(
    forget: Float[Tensor, "n d"], retain: Float[Tensor, "m d"], rank: int, share: float
) -> Float[Tensor, "d r"]:
    """Directions that what is forgotten takes and what is kept does not: RILA of ReGLU.

    The `rank` first eigenvectors of (1 - share) C_f - share C_r,  C = H' H / n + 1e-4 I, in float64.

    Raises: BadSpec for a rank above the width.
    """
    difference = (1 - share) * _moment(forget) - share * _moment(retain)
    return _leading(difference, rank)


def retain_directions(retain: Float[Tensor, "m d"], rank: int) -> Float[Tensor, "d k"]:
    """The directions that what is kept takes most: P of ReGLU's penalty. Raises BadSpec as `forget_directions`."""
    return _leading(_moment(retain), rank)


def overlap(A: Float[Tensor, "d r"], P: Float[Tensor, "d k"]) -> Float[Tensor, ""]:
    """||A' P||_F^2: how far what a side path writes lies in the retained directions. ReGLU, the ROL penalty."""
    return (A.T @ P).square().sum()


def _moment(x: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    x = x.double()
    return x.T @ x / len(x) + 1e-4 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)


def _leading(symmetric: Float[Tensor, "d d"], rank: int) -> Float[Tensor, "d r"]:
    if rank > len(symmetric):
        raise BadSpec(f"{rank} directions were asked for in a space of {len(symmetric)}. Ask for fewer.")
    return torch.linalg.eigh(symmetric).eigenvectors[:, -rank:].flip(dims=(1,))
