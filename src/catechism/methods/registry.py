"""Which methods there are, and what every one of them can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from catechism.delta import Delta
from catechism.errors import UnknownName
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.types import Catechism

#: Name of a method -> where its class is. A method is imported when it is asked for.
METHODS: Mapping[str, str] = {
    "alphaedit": "catechism.methods.edit.alphaedit:AlphaEdit",
    "distill": "catechism.methods.train.distill:Distill",
    "emmet": "catechism.methods.edit.emmet:Emmet",
    "ft_bf": "catechism.methods.train.ft_bf:FtBf",
    "ft_l": "catechism.methods.train.ft_l:FtL",
    "ft_m": "catechism.methods.train.ft_m:FtM",
    "grace": "catechism.methods.edit.grace:Grace",
    "ice": "catechism.methods.edit.ice:Ice",
    "ike": "catechism.methods.edit.ike:Ike",
    "lora": "catechism.methods.train.lora:Lora",
    "malmen": "catechism.methods.edit.malmen:Malmen",
    "memit": "catechism.methods.edit.memit:Memit",
    "memoir": "catechism.methods.edit.memoir:Memoir",
    "mend": "catechism.methods.edit.mend:Mend",
    "rome": "catechism.methods.edit.rome:Rome",
    "sequential": "catechism.methods.edit.sequential:Sequential",
    "ultraedit": "catechism.methods.edit.ultraedit:UltraEdit",
    "wise": "catechism.methods.edit.wise:Wise",
}

#: Methods that teach a fact whose subject is not known; the others find theirs in its prompt.
SUBJECTLESS = frozenset({"ft_bf", "ft_l", "ft_m", "lora", "malmen", "mend", "ultraedit"})


@runtime_checkable
class Method(Protocol):
    """Turns catechisms into a delta. Never changes the model it is given."""

    @property
    def name(self) -> str:
        """Its name in `METHODS`."""
        ...

    @property
    def Spec(self) -> type[Any]:
        """The dataclass of its settings; every one has `seed`, and `layer` where it edits one."""
        ...

    def fit(self, live: LiveModel, catechisms: Sequence[Catechism], spec: Any) -> Delta:
        """One delta for all the catechisms."""
        ...


def method(name: str) -> Callable[[Background], Method]:
    """The class of a method by its name; made with a `Background`, whose statistics it shares.

    Raises: UnknownName, with what there is.
    """
    if name not in METHODS:
        near = get_close_matches(name, METHODS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownName(f"There is no method {name!r}.{hint} Choose one of: {', '.join(sorted(METHODS))}.")
    module, _, attribute = METHODS[name].partition(":")
    return getattr(import_module(module), attribute)
