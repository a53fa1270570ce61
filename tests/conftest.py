"""What holds for every test: no network, the caller's settings out of the way, fixed seeds, no GPU needed."""

from __future__ import annotations

import os

# Read by the Hugging Face libraries when they are imported, so before anything else.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes that share the processors
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import inspect
import ipaddress
import random
import re
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jaxtyping
import pytest
from hypothesis import settings

_SHAPE = re.compile(r"""\w\[[\w.]+, ?["']""")  # Float[Tensor, "n d"], of whatever kind of numbers


def _has_shapes(decorated: Any) -> bool:
    """Whether an annotation of a function, or of a dataclass's field, says a shape, by itself or by a name."""
    known = vars(sys.modules[decorated.__module__])
    owners = getattr(decorated, "__mro__", (decorated,))
    said = [str(one) for owner in owners for one in inspect.get_annotations(owner).values()]
    named = [str(known.get(word)) for one in said for word in re.findall(r"\w+", one)]
    return any(_SHAPE.search(one) for one in (*said, *named))


def _check_shapes(*, typechecker: Any) -> Callable[[Any], Any]:
    """What the import hook puts on every function and class: a check while the tests run, where there is a shape.

    Other annotations are pyright's. To check those as well, at every call, took two thirds of the time of the tests.
    """
    return lambda one: _jaxtyped(one, typechecker=typechecker) if _has_shapes(one) else one


_jaxtyped, jaxtyping.jaxtyped = jaxtyping.jaxtyped, _check_shapes  # type: ignore[assignment]

# A shared machine is slow at times; an example that takes long is no failure.
settings.register_profile("catechism", deadline=None, derandomize=True, database=None)
settings.load_profile("catechism")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none; torch is only asked if such a test was collected."""
    waiting = [item for item in items if item.get_closest_marker("gpu")]
    if not waiting:
        return
    import torch

    if not torch.cuda.is_available():
        for item in waiting:
            item.add_marker(pytest.mark.skip(reason="no GPU on this machine"))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that would leave the machine. Unix sockets and loopback stay open.

    `pytest.fail` raises what no `except Exception` catches, so that code is lenient about being offline fails too.
    """

    def guarded(method: Any) -> Any:
        def call(self: socket.socket, *args: Any) -> Any:
            address = args[-1] if method.__name__ == "sendto" else args[0]
            if self.family != getattr(socket, "AF_UNIX", None) and not is_loopback(address[0]):
                pytest.fail(f"A test tried to reach {address!r}. Tests run without a network.")
            return method(self, *args)

        return call

    def lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_loopback(host):
            pytest.fail(f"A test tried to look up {host!r}. Tests run without a network.")
        return getaddrinfo(host, *args, **kwargs)

    getaddrinfo = socket.getaddrinfo
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
    monkeypatch.setattr(socket, "getaddrinfo", lookup)


def is_loopback(host: str | bytes | None) -> bool:
    """Whether a host is this machine. No name but localhost is: looking one up would be network traffic already."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the settings of the person who runs the tests, and his cache, out of them."""
    for name in [name for name in os.environ if name.startswith("CATECHISM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CATECHISM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """The same random numbers in every test, whichever ran before it."""
    random.seed(0)
    if "torch" in sys.modules:
        import torch

        torch.manual_seed(0)
    yield
