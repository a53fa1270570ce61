"""Settings, read from the environment when asked for and handed on as an argument.

    CATECHISM_CACHE    folder for what can be computed again, covariance statistics above all;
                       default: the user's cache folder
    CATECHISM_DEVICE   where models are put, "cpu" or "cuda:0" for instance; default: the CPU
    CATECHISM_HOME     folder of the registry: edits, approvals, audit, keys; default: .catechism in the working folder
    CATECHISM_DATABASE an SQLAlchemy address of the registry's tables; default: an SQLite file in CATECHISM_HOME
    CATECHISM_USER     who is writing; default: your login, or "local"
    CATECHISM_ENDPOINT, CATECHISM_ENDPOINT_MODEL, CATECHISM_ENDPOINT_KEY
                       an OpenAI-compatible address that may write phrasings, its model and key; default: none

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
        home: folder of the registry; it may not exist yet.
        database: address of the registry's tables; None is a file in `home`.
        user: who is writing.
        endpoint, endpoint_model, endpoint_key: an OpenAI-compatible service; None where none is configured.
    """

    cache: Path
    device: str | None = None
    home: Path = Path(".catechism")
    database: str | None = None
    user: str = "local"
    endpoint: str | None = None
    endpoint_model: str | None = None
    endpoint_key: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Settings from variables, ``os.environ`` as a rule. An empty variable counts as unset."""
        cache = environment.get("CATECHISM_CACHE")
        return cls(
            cache=Path(cache).expanduser() if cache else user_cache_path("catechism", appauthor=False),
            device=environment.get("CATECHISM_DEVICE") or None,
            home=Path(environment.get("CATECHISM_HOME") or ".catechism").expanduser(),
            database=environment.get("CATECHISM_DATABASE") or None,
            user=environment.get("CATECHISM_USER") or environment.get("USER") or "local",
            endpoint=environment.get("CATECHISM_ENDPOINT") or None,
            endpoint_model=environment.get("CATECHISM_ENDPOINT_MODEL") or None,
            endpoint_key=environment.get("CATECHISM_ENDPOINT_KEY") or None,
        )
