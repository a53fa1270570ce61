"""Settings, read from the environment when asked for and handed on as an argument.

    CATECHISM_CACHE    folder for what can be computed again, covariance statistics above all;
                       default: the user's cache folder
    CATECHISM_DEVICE   where models are put, "cpu" or "cuda:0" for instance; default: the CPU

Nothing is read at import and nothing is kept: two callers may hold two different settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path


@dataclass(frozen=True, slots=True)
class Settings:
    """What a caller may choose once for all commands.

    Attributes:
        cache: folder for what can be computed again; it may not exist yet.
        device: where models are put; None leaves them on the CPU.
    """

    cache: Path
    device: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Settings from variables, ``os.environ`` as a rule. An empty variable counts as unset."""
        cache = environment.get("CATECHISM_CACHE")
        return cls(
            cache=Path(cache).expanduser() if cache else user_cache_path("catechism", appauthor=False),
            device=environment.get("CATECHISM_DEVICE") or None,
        )
