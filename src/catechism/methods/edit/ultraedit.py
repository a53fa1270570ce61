"""UltraEdit: Training-, Subject-, and Memory-Free Lifelong Editing in Language Models, arXiv:2505.14679.

No network is trained and no value is searched. One backward pass gives, for every token that an answer is said from,
what enters a matrix and the gradient of what leaves it. Both are normalised by statistics of all edits so far; the
normalised gradient is the shift of the value, and a ridge regression writes all shifts into the matrix at once:

    z_t = [h_t; g_t],   z^_t = (z_t - mean) / std     mean and std over all tokens of all turns, Welford    # Eq. 1
    d_t = -eta |h^_t|^2 g^_t                                                                                # Eq. 2
    S   = D^T H (H^T H + lambda I)^-1                                                                       # Eq. 3

    symbol  shape      meaning
    h_t     (d_in,)    what enters the matrix at token t, as it is in H, normalised in Eq. 2
    g_t     (d_out,)   gradient of the edit's loss by what leaves it
    H, D    (m, d_in), (m, d_out)   of all m tokens of a turn, one a row
    eta     ()         size of a shift

A token counts if a token of the answer is said from it, as in the official code. Matrices of one shape share their
statistics, which are all that a stream needs to go on.

Deviation: eta and lambda are shares, of the root mean square of what the matrix says per |h^|^2 / d_in and of the mean
|h|^2; published are 1e-6 and 1, which fit one model's activations.
Deviation: the statistics begin with those of sentences that the model knows (`warm`), or the first edit of a stream
that goes one by one would be its own mean, and its normalised gradient zero.
Equation numbers are this page's own.
Not implemented: the published choice of gate and up projections of other layers than those of the down projections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.delta import Delta, LowRank
from catechism.errors import BadSpec, NoConvergence
from catechism.hashing import digest_json
from catechism.methods.stream import Progress, Stepwise, Stream
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.hyper.examples import self_written
from catechism.model.hyper.factors import gradient_factors
from catechism.model.target_tokens import TargetTokens, check_facts, check_rate, target_tokens
from catechism.solve.shifts import shift_update
from catechism.types import JSON, Catechism, Role, Site

SOURCE = "arXiv:2505.14679"
ROWS = 32  # edits whose gradients are taken together
START = Progress()


@dataclass(frozen=True)
class Spec:
    """Settings. Published values are those of the official code for Llama-3-8B."""

    layer: int  # the last one that is edited
    spread: int = 2  # layers that are edited; published 8 (gate) and 7 (up)
    eta: float = 1.0  # size of a shift, see above; published 1e-6, absolute
    ridge: float = 0.1  # lambda, see above; published 1, absolute
    warm: int = 32  # sentences that the statistics begin with; published none
    seed: int = 0

    def __post_init__(self) -> None:
        check_rate("eta", self.eta, most=1e3)
        if self.spread < 1 or self.warm < 0 or not 0 < self.ridge < float("inf"):
            raise BadSpec(
                f"spread={self.spread}, warm={self.warm}, ridge={self.ridge}: use a layer or more, 0 sentences or "
                "more, and a ridge above 0."
            )


@dataclass
class Running:
    """Mean and spread of everything seen so far, one token at a time or many.  # Eq. 1"""

    n: Float[Tensor, ""]
    mean: Float[Tensor, " d"]
    squares: Float[Tensor, " d"] = field(repr=False)  # summed squares of the differences from the mean

    @staticmethod
    def nothing(d: int) -> Running:
        """Before the first token."""
        return Running(torch.zeros((), dtype=torch.float64), *(torch.zeros(2, d, dtype=torch.float64)))

    def add(self, z: Float[Tensor, "m d"]) -> Running:
        """With these tokens as well: Welford's update for a batch."""
        m, z = len(z), z.double().cpu()
        n = self.n + m
        difference = z.mean(dim=0) - self.mean
        squares = self.squares + (z - z.mean(dim=0)).square().sum(dim=0) + difference.square() * self.n * m / n
        return Running(n, self.mean + difference * m / n, squares)

    def normalised(self, z: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        """In units of the spread; a coordinate that never differed is 0."""
        std = (self.squares / self.n).sqrt()
        scaled = (z.double() - self.mean.to(z.device)) / std.clamp_min(torch.finfo(torch.float64).tiny).to(z.device)
        return torch.where(std.to(z.device) > 0, scaled, 0.0)


class UltraEdit:
    """The editor."""

    name = "ultraedit"
    Spec = Spec

    def __init__(self, background: Background) -> None:
        self._background = background

    def fit(self, live: LiveModel, catechisms: Sequence[Catechism], spec: Spec) -> Delta:
        """One turn for all facts. The model is not changed.

        Raises: BadFact if a prompt does not hold its subject or an object is empty; BadSpec without facts; WrongBase if
            the background is that of another model; UnknownName for a layer without a dense MLP.
        """
        return self.stream(live, spec).add(catechisms)

    def stream(self, live: LiveModel, spec: Spec, progress: Progress = START) -> Stream:
        """Turn after turn, each on the model that carries the earlier ones, with the statistics of all of them."""
        self._background.check(live)
        sites = _sites(live, spec)

        def step(catechisms: Sequence[Catechism], stood: Progress) -> Progress:
            check_facts(live, [one.fact for one in catechisms], needs_subject=False)
            running = _running(stood) or self._warmed(live, sites, spec)
            if stood.delta is None:
                return self._turn(live, sites, catechisms, spec, running, stood)
            with live.with_delta(stood.delta):
                return self._turn(live, sites, catechisms, spec, running, stood)

        return Stepwise(step, progress)

    def _turn(
        self,
        live: LiveModel,
        sites: Sequence[Site],
        catechisms: Sequence[Catechism],
        spec: Spec,
        running: dict[str, Running],
        stood: Progress,
    ) -> Progress:
        facts = [one.fact for one in catechisms]
        seen = _tokens(live, sites, [fact.prompt for fact in facts], [fact.object for fact in facts])
        running = _updated(running, seen)
        parts = {}
        for site, (h, g) in seen.items():
            matrix = live.anatomy.matrix(site)
            A, B = _write(matrix.read().to(h), h, g, running[_shape(h, g)], spec)
            parts[matrix.address] = LowRank(A.float().cpu(), B.float().cpu())
        info: dict[str, JSON] = {
            "method": self.name,
            "spec": asdict(spec),
            "facts": [digest_json(asdict(fact)) for fact in facts],
            "tokens": {shape: float(one.n) for shape, one in running.items()},
        }
        delta = Delta(live.base, parts, info)
        if not delta.is_finite():
            raise NoConvergence("The shifts left the finite numbers. Lower `eta`, or open the model in float32.")
        tensors = {f"{shape}.{name}": tensor for shape, one in running.items() for name, tensor in vars(one).items()}
        return Progress(delta if stood.delta is None else stood.delta + delta, tensors, stood.steps + 1)

    def _warmed(self, live: LiveModel, sites: Sequence[Site], spec: Spec) -> dict[str, Running]:
        """The statistics that a stream begins with."""
        if spec.warm == 0:
            return {}
        known = self_written(self._background, spec.warm, seed=spec.seed)
        return _updated({}, _tokens(live, sites, [one.prompt for one in known], [one.answer for one in known]))


#: What enters a matrix at every token that counts, and the gradient of what leaves it.
Seen = Mapping[Site, tuple[Float[Tensor, "m d_in"], Float[Tensor, "m d_out"]]]


def _write(
    W: Float[Tensor, "d_out d_in"],
    h: Float[Tensor, "m d_in"],
    g: Float[Tensor, "m d_out"],
    running: Running,
    spec: Spec,
) -> tuple[Float[Tensor, "d_out r"], Float[Tensor, "r d_in"]]:
    """The factors of one matrix's change.  # Eq. 2, Eq. 3"""
    d_in = h.shape[1]
    normal = running.normalised(torch.cat([h, g], dim=1))
    size = (h @ W.T).double().square().mean().sqrt()
    shifts = -spec.eta * size * normal[:, :d_in].square().sum(dim=1, keepdim=True) / d_in * normal[:, d_in:]
    keys = h.double()
    return shift_update(keys, shifts, spec.ridge * keys.square().sum(dim=1).mean())


def _sites(live: LiveModel, spec: Spec) -> list[Site]:
    """The output matrices of the layers that are edited. Raises UnknownName if the last one has none."""
    live.anatomy.matrix(Site(spec.layer, Role.MLP_OUT))
    layers = range(max(0, spec.layer - spec.spread + 1), spec.layer + 1)
    return [site for layer in layers if live.anatomy.has(site := Site(layer, Role.MLP_OUT))]


def _tokens(live: LiveModel, sites: Sequence[Site], prompts: Sequence[str], targets: Sequence[str]) -> Seen:
    seen: dict[Site, list[tuple[Tensor, Tensor]]] = {site: [] for site in sites}
    for start in range(0, len(prompts), ROWS):
        asked: TargetTokens = target_tokens(live, prompts[start : start + ROWS], targets[start : start + ROWS])
        for site, found in gradient_factors(live, sites, asked).items():
            at = asked.rows.to(found.u.device), asked.tokens.to(found.u.device)
            seen[site].append((found.u[at], found.delta[at]))
    return {site: (torch.cat([h for h, _ in some]), torch.cat([g for _, g in some])) for site, some in seen.items()}


def _updated(running: dict[str, Running], seen: Seen) -> dict[str, Running]:
    after = dict(running)
    for h, g in seen.values():
        z = torch.cat([h, g], dim=1)
        after[_shape(h, g)] = after.get(_shape(h, g), Running.nothing(z.shape[1])).add(z)
    return after


def _shape(h: Tensor, g: Tensor) -> str:
    return f"{g.shape[1]}x{h.shape[1]}"


def _running(progress: Progress) -> dict[str, Running] | None:
    """The statistics that a stream stood at; None before its first turn."""
    if progress.tensors is None:
        return None
    shapes = dict.fromkeys(name.partition(".")[0] for name in progress.tensors)
    return {shape: Running(*(progress.tensors[f"{shape}.{x}"] for x in ("n", "mean", "squares"))) for shape in shapes}
