"""A top-k sparse autoencoder of the states that leave a block, trained on the model at hand.

    z(x) = top_k(relu(E (x - b) + e)),   x' = D z + b,   minimise |x - x'|^2 / |x - mean|^2

    x (d,) a state;  E (f, d), e (f,) encoder;  D (d, f) decoder with columns of length one;  b (d,) offset

Source: top-k activation and unit decoder columns as in arXiv:2406.04093. Deviation: no auxiliary loss for features that
never speak; with a few thousand states their share is reported instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.errors import BadSpec, NoConvergence


@dataclass(frozen=True, eq=False)
class SparseCoder:
    """A trained autoencoder.

    Attributes:
        encoder, bias, decoder, offset: as above, for states divided by `scale`.
        scale: root mean square of a centred state's entries.
        k: features that speak at a time.
        explained: share of the states' variance that the reconstruction keeps, over what it was trained on.
        silent: share of the features that never speak there.
    """

    encoder: Float[Tensor, "f d"]
    bias: Float[Tensor, " f"]
    decoder: Float[Tensor, "d f"]
    offset: Float[Tensor, " d"]
    scale: float
    k: int
    explained: float = 0.0
    silent: float = 0.0

    def before(self, X: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        """How strongly every feature is called, before the others silence it; may be below 0."""
        return (X / self.scale - self.offset) @ self.encoder.T + self.bias

    def features(self, X: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        """z: the k strongest features of each state, 0 for the others."""
        return strongest(self.before(X), self.k)

    def states(self, z: Float[Tensor, "n f"]) -> Float[Tensor, "n d"]:
        """The states of these features."""
        return (z @ self.decoder.T + self.offset) * self.scale


def strongest(called: Float[Tensor, "n f"], k: int) -> Float[Tensor, "n f"]:
    """The k largest entries of every row where they are above 0, and 0 elsewhere."""
    values, where = called.topk(k, dim=1)
    return torch.zeros_like(called).scatter(1, where, values.clamp_min(0))


@torch.enable_grad()
def train_coder(
    X: Float[Tensor, "n d"], *, features: int, k: int, steps: int, batch: int, lr: float, seed: int
) -> SparseCoder:
    """Train an autoencoder on states, float32, by Adam at a rate that falls along a line.

    Raises: BadSpec for k above the number of features, or fewer than two states; NoConvergence if a loss is not finite.
    """
    if not 1 <= k <= features or len(X) < 2:
        raise BadSpec(
            f"k={k} of {features} features over {len(X)} states: use 1 <= k <= features, and 2 states or more."
        )
    X = X.detach().float()
    mean = X.mean(dim=0)
    scale = float((X - mean).square().mean().sqrt().clamp_min(1e-12))
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.randn(X.shape[1], features, generator=generator).to(X.device)
    decoder = (decoder / decoder.norm(dim=0)).requires_grad_()
    encoder = decoder.detach().T.clone().requires_grad_()
    bias = torch.zeros(features, device=X.device, requires_grad=True)
    offset = (mean / scale).clone().requires_grad_()
    adam = torch.optim.Adam([encoder, bias, decoder, offset], lr=lr)
    total = ((X - mean) / scale).square().sum(dim=1).mean()

    def error(x: Tensor) -> tuple[Tensor, Tensor]:
        z = strongest((x / scale - offset) @ encoder.T + bias, k)
        return (z @ decoder.T + offset - x / scale).square().sum(dim=1).mean() / total, z

    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = lr * (1 - step / steps)
        rows = torch.randint(len(X), (min(batch, len(X)),), generator=generator).to(X.device)
        loss, _ = error(X[rows])
        if not bool(torch.isfinite(loss)):
            raise NoConvergence(f"The autoencoder's loss is {loss.item()} at step {step}. Lower its rate, now {lr}.")
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            decoder /= decoder.norm(dim=0).clamp_min(1e-12)
    with torch.no_grad():
        loss, z = error(X)
        silent = float((z <= 0).all(dim=0).float().mean())
    kept = (encoder.detach(), bias.detach(), decoder.detach(), offset.detach())
    return SparseCoder(*kept, scale, k, 1 - float(loss), silent)
