"""Which layer a closed-form edit should go to: where a subject's key is its own.

A rank-one edit with key k* and direction u = C^-1 k* adds ``gain(x) = u.x / u.k*`` times its value at every input x of
the edited matrix. It generalises where the gain is near 1 for the same subject in other words, and it spares the rest
where the gain is near 0 for other subjects. Both are measured here, per layer, on the base model, without an edit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.errors import ArchitectureMismatch, BadSpec
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.contexts import FRAMES
from catechism.model.targets import subject_keys
from catechism.solve import DAMPING, factorise
from catechism.types import Catechism, Locus, Role, Site

PILOTS = 32


@torch.no_grad()
def rank_layers(live: LiveModel, catechisms: Sequence[Catechism], background: Background) -> list[Locus]:
    """Every layer's MLP output with its score, best first.

        score = mean gain on the same subject - mean |gain| on other subjects

    Args:
        catechisms: facts to measure on; only prompts and subjects are read, of the first `PILOTS` with distinct
            subjects.

    Raises: BadSpec if there are none; BadFact if a prompt does not hold its subject; WrongBase if the background is
        that of another model; ArchitectureMismatch if every layer is a mixture of experts.
    """
    if not catechisms:
        raise BadSpec("There is nothing to measure on. Give at least one catechism.")
    background.check(live)
    sites = live.anatomy.sites(Role.MLP_OUT)
    if not sites:
        raise ArchitectureMismatch(
            f"{live.name} has no dense MLP, every layer is a mixture of experts. Choose a dense model to edit an MLP."
        )
    pilots = list({c.fact.subject: c.fact for c in catechisms}.values())[:PILOTS]
    frames = [[fact.prompt, *(frame.format(fact.subject) for frame in FRAMES)] for fact in pilots]
    subjects = [fact.subject for fact, asked in zip(pilots, frames, strict=True) for _ in asked]
    prompts = [prompt for asked in frames for prompt in asked]
    loci = []
    for site, keys in subject_keys(live, sites, prompts, subjects).items():
        evidence = _gains(keys.unflatten(0, (len(pilots), -1)), background, site)
        loci.append(Locus(site, evidence["same_subject"] - evidence["other_subject"], evidence))
    return sorted(loci, key=lambda locus: -locus.score)


def _gains(keys: Float[Tensor, "n f d"], background: Background, site: Site) -> dict[str, float]:
    """Gains between every pilot's edit key (its prompt, frame 0) and every pilot's keys in the other frames."""
    n = len(keys)
    factor = factorise(background.covariance(site).matrix.to(keys.device), damping=DAMPING)
    directions = factor.solve(keys[:, 0])
    readers = directions / (directions * keys[:, 0]).sum(dim=1, keepdim=True)
    gains = torch.einsum("id,jfd->ijf", readers, keys)  # of edit i on subject j in frame f
    own = torch.eye(n, dtype=torch.bool, device=keys.device)
    others = gains[~own].abs()
    return {
        "same_subject": float(gains[own][:, 1:].mean()),
        "other_subject": float(others.mean()) if n > 1 else 0.0,
    }
