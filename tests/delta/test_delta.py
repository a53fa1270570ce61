from __future__ import annotations

import copy
import hashlib
import pickle
from typing import Any

import pytest
import torch

from catechism.delta import Delta, LowRank
from catechism.errors import NonFiniteDelta, ShapeMismatch, UsageError, WrongBase

BASE = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32


def part(seed: int, d_out: int = 4, d_in: int = 6, rank: int = 2, dtype: torch.dtype = torch.float32) -> LowRank:
    g = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(d_out, rank, generator=g).to(dtype), torch.randn(rank, d_in, generator=g).to(dtype))


def delta(seed: int = 0, **changed: Any) -> Delta:
    parts = {"layers.0.out": part(seed), "layers.1.out": part(seed + 1, rank=1)}
    return Delta(**{"base": BASE, "parts": parts, "info": {"method": "rome", "seed": seed}, **changed})


def test_the_digest_is_pinned() -> None:
    # Worked out from the format page; a change of it changes the name of every delta.
    ones = LowRank(torch.ones(2, 1), torch.ones(1, 3))
    header = (
        '{"base":"BASE","format":"catechism.delta","info":{"method":"rome"},"parts":{"m":{"dtype":"F32",'
        '"kind":"low_rank","rank":1,"shape":[2,3]}},"version":1}'
    ).replace("BASE", BASE)
    expected = "sha256:" + hashlib.sha256(header.encode() + bytes.fromhex("0000803f") * 5).hexdigest()
    assert Delta(BASE, {"m": ones}, {"method": "rome"}).digest == expected
    assert expected == "sha256:4587a5b950baa06e0cfc18ac44b8ebddaebe27ad566bdb32d10f8f3f0007453d"


def test_the_digest_does_not_depend_on_the_order_of_dictionaries() -> None:
    a = delta()
    b = Delta(BASE, dict(reversed(a.parts.items())), {"seed": 0, "method": "rome"})
    assert a.digest == b.digest
    assert list(b.parts) == sorted(b.parts)


def test_the_digest_changes_with_everything_that_a_delta_says() -> None:
    flipped = part(0)
    flipped.A.view(torch.uint8)[0, 0] ^= 1
    first, second = part(0), part(1, rank=1)
    variants = [
        delta(),
        delta(base=OTHER),
        delta(info={"method": "rome", "seed": 1}),
        delta(info={}),
        delta(parts={"layers.0.out": first}),
        delta(parts={"layers.0.out": first, "layers.2.out": second}),
        delta(parts={"layers.0.out": flipped, "layers.1.out": second}),
        delta(parts={"layers.0.out": LowRank(first.A.double(), first.B.double()), "layers.1.out": second}),
        # the same bytes in the same order, cut at other places
        delta(parts={"layers.0.out": LowRank(torch.ones(4, 2), torch.ones(2, 6))}),
        delta(parts={"layers.0.out": LowRank(torch.ones(7, 2), torch.ones(2, 3))}),
    ]
    assert len({variant.digest for variant in variants}) == len(variants)


def test_the_digest_changes_with_any_byte_of_the_factors() -> None:
    seen = set()
    for index in range(4 * 2 * 4):
        changed = part(0)
        changed.A.view(torch.uint8).reshape(-1)[index] ^= 0x10
        seen.add(Delta(BASE, {"m": changed}, {}).digest)
    assert len(seen) == 32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.float16])
def test_sums_and_scales_act_on_every_matrix(dtype: torch.dtype) -> None:
    a = Delta(BASE, {"x": part(0, dtype=dtype), "y": part(1, dtype=dtype)}, {"n": 1})
    b = Delta(BASE, {"y": part(2, dtype=dtype), "z": part(3, dtype=dtype)}, {"n": 2})
    total = a + b
    assert list(total.parts) == ["x", "y", "z"]
    assert total.parts["x"].equals(a.parts["x"]) and total.parts["z"].equals(b.parts["z"])
    assert torch.allclose(total.parts["y"].dense(), a.parts["y"].dense() + b.parts["y"].dense())
    assert total.nbytes == a.nbytes + b.nbytes
    assert all(torch.equal(a.scaled(2.0).parts[k].dense(), 2 * a.parts[k].dense()) for k in a.parts)


def test_sums_associate_and_list_their_summands() -> None:
    a, b, c = delta(0), delta(10), delta(20)
    left, right = (a + b) + c, a + (b + c)
    assert left.info == {"sum": [a.digest, b.digest, c.digest]}
    assert left.digest == right.digest
    assert a.scaled(0.5).info == {"scaled": a.digest, "by": 0.5}


def test_the_empty_delta_is_neutral() -> None:
    nothing, a = Delta(BASE, {}), delta()
    assert nothing.nbytes == 0 and nothing.is_finite()
    assert all((a + nothing).parts[k].equals(a.parts[k]) for k in a.parts)


def test_deltas_of_different_bases_do_not_add() -> None:
    with pytest.raises(WrongBase, match="same base model"):
        delta() + delta(base=OTHER)


def test_a_matrix_of_two_shapes_does_not_add() -> None:
    with pytest.raises(ShapeMismatch):
        Delta(BASE, {"m": part(0)}) + Delta(BASE, {"m": part(0, d_in=5)})


def test_scaling_by_no_number_is_refused() -> None:
    with pytest.raises(NonFiniteDelta):
        delta().scaled(float("nan"))


def test_a_delta_knows_whether_it_is_finite() -> None:
    assert delta().is_finite()
    assert not Delta(BASE, {"m": LowRank(torch.full((1, 1), float("inf")), torch.ones(1, 1))}).is_finite()


@pytest.mark.parametrize(
    "changed",
    [
        {"base": ""},
        {"parts": {"": part(0)}},
        {"info": {"x": float("nan")}},
        {"info": {"x": "\ud800"}},
    ],
)
def test_a_delta_without_a_base_an_address_or_plain_info_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"(Give|Turn)"):
        delta(**changed)


def test_info_is_copied_so_that_later_changes_do_not_reach_it() -> None:
    info: dict[str, Any] = {"layers": [1, 2]}
    a = delta(info=info)
    digest = a.digest
    info["layers"].append(3)
    assert a.info == {"layers": [1, 2]} and delta(info={"layers": [1, 2]}).digest == digest


def test_a_delta_survives_copying_and_pickling_between_processes() -> None:
    a = delta()
    assert copy.deepcopy(a).digest == a.digest == pickle.loads(pickle.dumps(a)).digest
