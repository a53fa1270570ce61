from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from catechism.delta import Delta, LowRank, load, save
from catechism.delta.low_rank import DTYPES
from catechism.errors import DeltaCorrupt, NonFiniteDelta, UnsafeDelta, WrongBase
from catechism.hashing import canonical_json
from catechism.types import JSON

law = settings(derandomize=True, max_examples=25, deadline=None, database=None)

BASE = "sha256:" + "ab" * 32


def part(seed: int, d_out: int = 3, d_in: int = 4, rank: int = 1, dtype: torch.dtype = torch.float32) -> LowRank:
    g = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(d_out, rank, generator=g).to(dtype), torch.randn(rank, d_in, generator=g).to(dtype))


def delta() -> Delta:
    return Delta(BASE, {"layers.0.out": part(0), "layers.1.out": part(1, rank=2)}, {"method": "rome", "seed": 0})


def with_header(path: Path, change: dict[str, object], *, delta_header: bool = True) -> Path:
    """Rewrite the header of a delta file, leaving its tensors as they are."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    entries = json.loads(raw[8:start])
    if delta_header:
        document = {**json.loads(entries["__metadata__"]["catechism.delta"]), **change}
        entries["__metadata__"] = {"catechism.delta": canonical_json(document).decode()}
    else:
        entries.update(change)
    header = canonical_json(entries)
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[start:])
    return path


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.é\"\\", max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


addresses = st.text('abz.[0:]é"\\ ', min_size=1, max_size=6)
parts = st.builds(
    part, st.integers(0, 99), st.integers(1, 5), st.integers(1, 5), st.integers(0, 3), st.sampled_from(list(DTYPES))
)


@law
@given(
    st.dictionaries(addresses, parts, max_size=4), st.dictionaries(st.text("abc", max_size=3), json_values, max_size=3)
)
def test_what_was_saved_is_what_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, parts: dict[str, LowRank], info: dict[str, JSON]
) -> None:
    a = Delta(BASE, parts, info)
    path = tmp_path_factory.mktemp("delta") / "a.safetensors"
    b = load(save(a, path), base=BASE)
    assert b.digest == a.digest and b.base == a.base and b.info == a.info and list(b.parts) == list(a.parts)
    assert all(b.parts[address].equals(a.parts[address]) for address in a.parts)
    assert save(b, path.with_name("b.safetensors")).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_special_numbers_survive_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    smallest = torch.tensor([[0.0], [-0.0], [torch.finfo(dtype).tiny], [torch.finfo(dtype).max]], dtype=dtype)
    a = Delta(BASE, {"m": LowRank(smallest, torch.ones(1, 2, dtype=dtype))})
    assert load(save(a, tmp_path / "a")).parts["m"].equals(a.parts["m"])


def test_every_safetensors_reader_reads_the_tensors(tmp_path: Path) -> None:
    a = Delta(BASE, {"x": part(0, dtype=torch.bfloat16, d_out=5), "y": part(1), "z": part(2, dtype=torch.float64)})
    tensors = load_file(save(a, tmp_path / "a.safetensors"))
    assert set(tensors) == {f"{address}.{side}" for address in "xyz" for side in "AB"}
    assert all(torch.equal(tensors[f"{k}.A"], p.A) and torch.equal(tensors[f"{k}.B"], p.B) for k, p in a.parts.items())


def test_a_change_of_any_single_byte_is_refused(tmp_path: Path) -> None:
    good = save(delta(), tmp_path / "good").read_bytes()
    bad = tmp_path / "bad"
    for position in range(len(good)):
        raw = bytearray(good)
        raw[position] ^= 1 << position % 8
        bad.write_bytes(raw)
        with pytest.raises((DeltaCorrupt, UnsafeDelta)):
            load(bad)


def test_a_change_that_json_does_not_see_is_refused(tmp_path: Path) -> None:
    path = save(delta(), tmp_path / "a")
    raw = path.read_bytes()
    assert raw.count(b"  ") > 0  # the padding after the header
    path.write_bytes(raw.replace(b"  ", b" \n", 1))
    with pytest.raises(DeltaCorrupt, match="header"):
        load(path)


def test_a_changed_tensor_is_corrupt_and_the_message_has_both_digests(tmp_path: Path) -> None:
    path = save(delta(), tmp_path / "a")
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 0x01
    path.write_bytes(raw)
    with pytest.raises(DeltaCorrupt, match=rf"digest is sha256:.*header says {delta().digest}.*Copy the file again"):
        load(path)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    good = save(delta(), tmp_path / "good").read_bytes()
    bad = tmp_path / "bad"
    for end in [*range(16), *range(16, len(good), 11), len(good) - 1]:
        bad.write_bytes(good[:end])
        with pytest.raises(DeltaCorrupt, match="Copy the file again"):
            load(bad)


def test_bytes_after_the_end_are_refused(tmp_path: Path) -> None:
    path = save(delta(), tmp_path / "a")
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DeltaCorrupt):
        load(path)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("how", ["pickle", "torch", "protocol 0"])
def test_a_pickle_with_another_name_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "delta.safetensors"
    if how == "torch":
        torch.save({"m.A": torch.ones(2, 2), "x": Bomb()}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(), protocol=0 if how == "protocol 0" else None))
    with pytest.raises(UnsafeDelta, match=r"catechism\.delta\.save"):
        load(path)
    assert not (tmp_path / "exploded").exists()


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.ones(2, 2)}, path, metadata)
        with pytest.raises(UnsafeDelta, match="from_peft"):
            load(path)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeDelta, match="from_peft"):
        load(tmp_path)
    with pytest.raises(UnsafeDelta, match="Check the path"):
        load(tmp_path / "nothing")


def test_a_delta_of_another_base_is_refused(tmp_path: Path) -> None:
    path = save(delta(), tmp_path / "a")
    other = "sha256:" + "cd" * 32
    with pytest.raises(WrongBase, match=rf"{BASE}.*{other}.*Open the model"):
        load(path, base=other)
    assert load(path, base=BASE).base == BASE


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_neither_written_nor_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    a = Delta(BASE, {"m": LowRank(torch.tensor([[bad]]), torch.ones(1, 1))})
    with pytest.raises(NonFiniteDelta, match="Fit it again"):
        save(a, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(Delta, "is_finite", lambda self: True)
    save(a, tmp_path / "a")
    monkeypatch.undo()
    with pytest.raises(NonFiniteDelta, match="Fit it again"):
        load(tmp_path / "a")


def test_a_header_that_lies_about_the_parts_is_refused(tmp_path: Path) -> None:
    claim = {"kind": "low_rank", "shape": [3, 4], "rank": 1, "dtype": "F32"}
    lies: list[dict[str, object]] = [
        {"layers.0.out": {**claim, "shape": [4, 3]}, "layers.1.out": {**claim, "rank": 2}},
        {"layers.0.out": {**claim, "rank": 2}, "layers.1.out": {**claim, "rank": 2}},
        {"layers.0.out": {**claim, "kind": "dense"}, "layers.1.out": {**claim, "rank": 2}},
        {"layers.0.out": claim},
        {"layers.0.out": claim, "layers.1.out": {**claim, "rank": 2}, "layers.2.out": claim},
        {},
    ]
    for parts in lies:
        with pytest.raises(DeltaCorrupt):
            load(with_header(save(delta(), tmp_path / "a"), {"parts": parts}))


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [3, 9], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": [1, 3], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": [-3, -1], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": [10**15, 0], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [3, 1], "data_offsets": [12, 0]},
        {"dtype": "F32", "shape": [3, 1], "data_offsets": [0, 10**9]},
        {"dtype": "F32", "shape": [3, 1], "data_offsets": [12, 24]},
        {"dtype": "I32", "shape": [3, 1], "data_offsets": [0, 12]},
        {"dtype": "F16", "shape": [3, 2], "data_offsets": [0, 12]},
        "nonsense",
    ],
)
def test_a_header_that_lies_about_the_bytes_is_refused(tmp_path: Path, entry: object) -> None:
    path = with_header(save(delta(), tmp_path / "a"), {"layers.0.out.A": entry}, delta_header=False)
    with pytest.raises(DeltaCorrupt):
        load(path)


def test_overlapping_tensors_are_refused_even_with_a_digest_that_matches(tmp_path: Path) -> None:
    twin = LowRank(torch.ones(2, 1), torch.ones(1, 2))
    path = save(Delta(BASE, {"m": twin}), tmp_path / "a")
    entry = {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}
    with pytest.raises(DeltaCorrupt, match="header"):
        load(with_header(path, {"m.B": entry}, delta_header=False))


@pytest.mark.parametrize("change", [{"base": ""}, {"base": 1}, {"info": []}, {"parts": []}, {"digest": None}, {"x": 1}])
def test_a_header_without_its_fields_or_with_more_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(DeltaCorrupt):
        load(with_header(save(delta(), tmp_path / "a"), change))


def test_a_file_of_a_later_version_says_how_to_upgrade(tmp_path: Path) -> None:
    with pytest.raises(UnsafeDelta, match="pip install -U catechism"):
        load(with_header(save(delta(), tmp_path / "a"), {"version": 3}))


def test_a_header_of_deep_brackets_is_refused(tmp_path: Path) -> None:
    header = b'{"a":' + b"[" * 200_000
    path = tmp_path / "a"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(DeltaCorrupt):
        load(path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(delta(), tmp_path / "a")
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        save(delta().scaled(2.0), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_saving_makes_the_folder_and_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "a.safetensors"
    save(delta(), path)
    assert save(delta().scaled(2.0), path) == path
    assert load(path).info["by"] == 2.0
    assert list(path.parent.iterdir()) == [path]
