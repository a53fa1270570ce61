"""In-context editing (ICE): the new fact stands before a prompt that asks for it, and no weight changes.

Cohen et al., Evaluating the Ripple Effects of Knowledge Editing in Language Models, arXiv:2307.12976, and their code
(edenbiran/RippleEdits, InContextModelEditor): a model that reads the fact answers, and reasons, as if it knew it.

    y = argmax p(y | s x),    s = the fact's sentence, x = the prompt

| paper | here | shape |
|---|---|---|
| s | `Recall.texts`, one for each fact | |
| x | the prompt that is asked | |

Deviation: the paper puts s before every prompt, and what has nothing to do with the fact suffers. Here a gate decides,
`Recall.address`, an entry for each fact: it was fitted on the fact's prompt, the phrasings to study, and questions that
must not move. A prompt that it does not know is asked as it stands and answered as before, to the last bit.
Deviation: between s and x stands a space, not a line break.

Not implemented: the method that bears the same name, a training on self-induced distributions (arXiv:2406.11194). What
is nearest to it here is `distill`, which trains a block towards the model that has the fact in its context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from catechism.delta import Delta
from catechism.errors import BadSpec
from catechism.hashing import digest_json
from catechism.model import LiveModel
from catechism.model.address import Reach
from catechism.model.background import Background
from catechism.model.recalling import recall
from catechism.types import Catechism

SOURCE = "arXiv:2307.12976"
KEY = "#in-context"  # where the texts stand in a delta


@dataclass(frozen=True)
class Spec:
    """Settings.

    Attributes:
        layer: the block whose input the gate reads.
        text: what stands before a prompt, with ``{fact}`` for the fact's sentence.
        reach: what the gate is fitted on.
        seed: unused; the common form of settings.
    """

    layer: int
    text: str = "{fact}"  # published: the sentence alone
    reach: Reach = Reach()
    seed: int = 0

    def __post_init__(self) -> None:
        if "{fact}" not in self.text:
            raise BadSpec(f"text={self.text!r} does not hold the fact. Write '{{fact}}' where it is to stand.")


class Ice:
    """The editor."""

    name = "ice"
    Spec = Spec

    def __init__(self, background: Background) -> None:
        self._background = background

    def fit(self, live: LiveModel, catechisms: Sequence[Catechism], spec: Spec) -> Delta:
        """The facts' sentences, each with the prompts that it is put before. Raises what `recall` raises."""
        texts = [spec.text.replace("{fact}", catechism.fact.sentence) for catechism in catechisms]
        part = recall(live, self._background, catechisms, texts, layer=spec.layer, reach=spec.reach)
        facts = [digest_json(asdict(catechism.fact)) for catechism in catechisms]
        return Delta(live.base, {KEY: part}, {"method": self.name, "spec": asdict(spec), "facts": facts})
