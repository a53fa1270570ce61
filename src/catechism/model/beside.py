"""What stands beside a model's weights: conditional memories and texts. Put on and off as a whole, in no order."""

from __future__ import annotations

from collections.abc import Iterable

from catechism.arch import Anatomy
from catechism.delta import Delta, Gated
from catechism.delta.part import Text
from catechism.hashing import digest_json
from catechism.model.memories import Memories


class Beside:
    """The memories and texts of the deltas that are on a model.

    Attributes:
        memories: act inside the forward pass.
        contexts: texts that a prompt may be asked with.
        digests: names each of them; empty when there is nothing.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        self.memories = Memories(anatomy)
        self.contexts: tuple[Text, ...] = ()
        self.digests: dict[str, str] = {}

    def check(self, delta: Delta, scale: float) -> None:
        """Raise ShapeMismatch, ArchitectureMismatch, UnknownName or NonFiniteDelta for what cannot be put on."""
        for key, part in delta.parts.items():
            if isinstance(part, Gated):
                self.memories.check(key, part)
            elif isinstance(part, Text):
                self._anatomy.block(part.layer)
                part.scaled(scale)

    def put(self, wanted: Iterable[tuple[Delta, float]]) -> None:
        """Put on what these deltas hold at these scales, and take off everything else.

        Raises: RevertError if something is left of what was taken off.
        """
        ordered = sorted(wanted, key=lambda item: (item[0].digest, item[1]))
        parts = [
            (key, part.scaled(scale), digest_json([delta.digest, scale]))
            for delta, scale in ordered
            for key, part in delta.parts.items()
            if scale != 0 and isinstance(part, Gated | Text)
        ]
        digests = {f"{key} {number}": digest for number, (key, _, digest) in enumerate(parts)}
        if digests == self.digests:
            return
        self.memories.install([(key, part) for key, part, _ in parts if isinstance(part, Gated)])
        self.contexts = tuple(part for _, part, _ in parts if isinstance(part, Text))
        self.digests = digests
