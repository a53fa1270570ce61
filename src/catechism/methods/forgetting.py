"""Which methods of forgetting there are, and what every one of them can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from catechism.delta import Delta
from catechism.errors import UnknownName
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.types import Forgetting, How

#: Name of a method -> where its class is. A method is imported when it is asked for.
FORGETTERS: Mapping[str, str] = {
    "altpo": "catechism.methods.forget.altpo:AltPO",
    "blur": "catechism.methods.forget.blur:Blur",
    "ceu": "catechism.methods.forget.ceu:CEU",
    "grad_ascent": "catechism.methods.forget.grad_ascent:GradAscent",
    "grad_diff": "catechism.methods.forget.grad_diff:GradDiff",
    "idk_dpo": "catechism.methods.forget.idk_dpo:IdkDPO",
    "kfac": "catechism.methods.forget.kfac:Kfac",
    "kl": "catechism.methods.forget.kl:KLRegularised",
    "leace": "catechism.methods.forget.leace:Leace",
    "memit_forget": "catechism.methods.forget.memit_forget:MemitForget",
    "negation": "catechism.methods.forget.negation:Negation",
    "neuron_path": "catechism.methods.forget.neuron_path:NeuronPath",
    "npo": "catechism.methods.forget.npo:NPO",
    "ofmu": "catechism.methods.forget.ofmu:OFMU",
    "pdu": "catechism.methods.forget.pdu:PDU",
    "reglu": "catechism.methods.forget.reglu:ReGLU",
    "rmu": "catechism.methods.forget.rmu:RMU",
    "rome_forget": "catechism.methods.forget.rome_forget:RomeForget",
    "sae": "catechism.methods.forget.sae:SAE",
    "satimp": "catechism.methods.forget.satimp:SatImp",
    "simnpo": "catechism.methods.forget.simnpo:SimNPO",
    "trace_replace": "catechism.methods.forget.trace_replace:TraceReplace",
    "undial": "catechism.methods.forget.undial:Undial",
    "wga": "catechism.methods.forget.wga:WGA",
}


@runtime_checkable
class Forgetter(Protocol):
    """Turns a request to forget into a delta. Never changes the model it is given."""

    @property
    def name(self) -> str:
        """Its name in `FORGETTERS`."""
        ...

    @property
    def Spec(self) -> type[Any]:
        """The dataclass of its settings; every field has a default, and every one has `seed`."""
        ...

    @property
    def hows(self) -> frozenset[How]:
        """What it can put in the place of what is forgotten."""
        ...

    def fit(self, live: LiveModel, request: Forgetting, spec: Any) -> Delta:
        """One delta for the whole request.

        Raises: BadSpec for a `how` that is not among `hows`, for an empty forget set, and for an empty retain set where
            the method needs one.
        """
        ...


def forgetter(name: str) -> Callable[[Background], Forgetter]:
    """The class of a method of forgetting by its name; made with a `Background`, whose statistics it shares.

    Raises: UnknownName, with what there is.
    """
    if name not in FORGETTERS:
        near = get_close_matches(name, FORGETTERS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownName(
            f"There is no method of forgetting {name!r}.{hint} Choose one of: {', '.join(sorted(FORGETTERS))}."
        )
    module, _, attribute = FORGETTERS[name].partition(":")
    return getattr(import_module(module), attribute)
