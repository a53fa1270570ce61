"""Opening models: what is passed through, and what every kind of broken checkpoint is told."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from catechism.arch import TABLE
from catechism.delta import Delta, LowRank
from catechism.errors import (
    BrokenWeights,
    MissingExtra,
    ModelNotFound,
    UnknownArchitecture,
    UnknownName,
    UnsafeWeights,
    UnsupportedTokenizer,
    UsageError,
)
from catechism.hashing import digest_file
from catechism.reference import SHIPPED, open_model, shipped_folder
from catechism.types import Role
from tests.tiny import tiny_model, tiny_tokenizer

opening: ModuleType = sys.modules["catechism.reference.open"]


def checkpoint(folder: Path, model_type: str = "llama", **overrides: object) -> Path:
    """A whole small checkpoint, as `save_pretrained` writes it."""
    tiny_model(model_type, **overrides).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("model_type", sorted(TABLE))
def test_every_architecture_opens_with_the_weights_that_were_saved(model_type: str, tmp_path: Path) -> None:
    live = open_model(checkpoint(tmp_path / "m", model_type))
    saved = dict(tiny_model(model_type).named_parameters())
    opened = dict(live.model.named_parameters())
    assert opened.keys() == saved.keys()
    assert all(torch.equal(opened[name], saved[name]) for name in saved)
    assert live.name == str(tmp_path / "m") and live.dtype == torch.float32


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        ("float32", torch.float32), ("fp32", torch.float32), ("bfloat16", torch.bfloat16), ("bf16", torch.bfloat16),
        ("float16", torch.float16), ("fp16", torch.float16),
    ],
)  # fmt: skip
def test_the_type_of_the_weights_is_the_one_asked_for(dtype: str, wanted: torch.dtype, tmp_path: Path) -> None:
    live = open_model(checkpoint(tmp_path), dtype=dtype)
    assert {p.dtype for p in live.model.parameters()} == {wanted}
    assert live.generate(["The capital of France is"], max_new_tokens=2)[0].tokens


def test_an_unknown_type_of_weights_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="dtype='int4' is not known. Use one of float32"):
        open_model(checkpoint(tmp_path), dtype="int4")


def test_tied_weights_are_stored_once_and_not_missing(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    live = open_model(folder)
    assert live.anatomy.head.weight is live.anatomy.embed.weight


def test_a_checkpoint_in_shards_opens(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    tiny_tokenizer().save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    assert open_model(tmp_path).base == open_model(checkpoint(tmp_path / "whole")).base
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(BrokenWeights, match=rf"lacks 1 of \d+ weight files \({shard.name}\)"):
        open_model(tmp_path)


def test_an_edit_and_its_revert_leave_the_file_alone(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    before = digest_file(folder / "model.safetensors")
    live = open_model(folder)
    matrix = live.anatomy.matrix(live.anatomy.sites(Role.MLP_OUT)[0])
    delta = Delta(live.base, {matrix.address: LowRank(torch.ones(32, 1), torch.ones(1, 48))})
    with live.with_delta(delta):
        assert live.digest() != live.base
        assert digest_file(folder / "model.safetensors") == before
    assert live.digest(full=True) == live.base == open_model(folder).base


def test_a_device_map_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    load = opening.AutoModelForCausalLM.from_pretrained

    def spy(folder: Path, **settings: object) -> object:
        seen.append((settings["device_map"], settings["use_safetensors"], settings["trust_remote_code"]))
        return load(folder, **settings)

    monkeypatch.setattr(opening.AutoModelForCausalLM, "from_pretrained", spy)
    assert open_model(checkpoint(tmp_path), device_map={"": "cpu"}).device.type == "cpu"
    assert seen == [({"": "cpu"}, True, False)]


@pytest.mark.parametrize("device_map", [None, "cpu"])
def test_a_single_device_needs_no_accelerate(
    device_map: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catechism.reference.open.importlib.util.find_spec", lambda name: None)
    assert open_model(checkpoint(tmp_path), device_map=device_map).device.type == "cpu"


def test_a_device_that_is_none_or_not_here_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="device_map='gpu' is no device"):
        open_model(checkpoint(tmp_path), device_map="gpu")
    with pytest.raises(UsageError, match="cannot be put on cuda:99"):
        open_model(tmp_path, device_map="cuda:99")


def test_a_device_map_without_accelerate_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("catechism.reference.open.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install accelerate"):
        open_model(checkpoint(tmp_path), device_map="auto")


def test_weights_left_on_disk_are_refused() -> None:
    with pytest.raises(BrokenWeights, match="left on disk"):
        opening._check_finite(tiny_model("llama").to("meta"), "float32")


# -- tensors that are not as they should be --------------------------------------------------------


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    name = next(name for name in load_file(folder / "model.safetensors") if "mlp" in name)
    change_weights(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(BrokenWeights, match=rf"1 missing \({name}\).*Copy or download"):
        open_model(folder)


def test_an_unexpected_tensor_is_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    change_weights(folder, lambda tensors: tensors.update({"backdoor.weight": torch.ones(2)}))
    with pytest.raises(BrokenWeights, match=r"1 unexpected \(backdoor\.weight\)"):
        open_model(folder)


def test_many_wrong_tensors_are_counted_and_the_first_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    for i in range(5):
        change_weights(folder, lambda tensors, i=i: tensors.update({f"extra.{i}": torch.ones(2)}))
    with pytest.raises(BrokenWeights, match=r"5 unexpected \(extra\.0, extra\.1, extra\.2 and 2 more\)"):
        open_model(folder)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    with pytest.raises(BrokenWeights, match=r"6 misshapen .*\(32, 48\) for \(32, 64\)"):
        open_model(folder)


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_a_tensor_of_an_expert_that_is_not_there_is_noticed(model_type: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, model_type)
    name = next(name for name in load_file(folder / "model.safetensors") if "expert" in name)
    change_weights(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(BrokenWeights, match="Copy or download"):
        open_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_tensor_that_is_not_finite_is_named(value: float, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    name = next(name for name in load_file(folder / "model.safetensors") if "mlp" in name)
    change_weights(folder, lambda tensors: tensors[name].view(-1)[7:8].fill_(value))
    with pytest.raises(BrokenWeights, match=rf"1 tensors hold NaN or infinity in float32 \({name}\)"):
        open_model(folder)


def test_weights_that_overflow_in_the_type_asked_for_are_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    change_weights(folder, lambda tensors: next(iter(tensors.values())).fill_(1e6))
    assert open_model(folder).dtype == torch.float32
    with pytest.raises(BrokenWeights, match="in float16 .* overflow in float16.*use dtype='float32'"):
        open_model(folder, dtype="float16")


def test_large_finite_weights_whose_sum_overflows_are_no_trouble(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    change_weights(folder, lambda tensors: next(iter(tensors.values())).fill_(3e38))
    assert open_model(folder).dtype == torch.float32


@pytest.mark.parametrize("keep", [0, 5, 1000, -10])
def test_a_weight_file_that_is_cut_off_is_refused(keep: int, tmp_path: Path) -> None:
    file = checkpoint(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(BrokenWeights, match="Copy or download them again"):
        open_model(tmp_path)


# -- files that are not as they should be ----------------------------------------------------------


class _Bomb:
    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return _explode, ("the pickle ran",)


def _explode(message: str) -> None:
    raise AssertionError(message)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused_and_never_read(name: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(UnsafeWeights, match=rf"{name}.*save_pretrained\(FOLDER, safe_serialization=True\)"):
        open_model(folder)


def test_a_pickle_under_the_name_of_a_safe_file_is_refused_and_never_read(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    (folder / "model.safetensors").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(BrokenWeights):
        open_model(folder)


def test_an_index_that_names_pickles_is_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    (folder / "model.safetensors").rename(folder / "part.bin")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "part.bin"}}))
    with pytest.raises(UnsafeWeights, match=r"part\.bin"):
        open_model(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}'])
def test_an_index_that_cannot_be_read_is_refused(text: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(BrokenWeights, match="cannot be read"):
        open_model(folder)


def test_safe_weights_beside_pickled_ones_are_used(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb()))
    assert open_model(folder).base == open_model(checkpoint(tmp_path / "clean")).base


def test_a_folder_without_weights_or_config_or_with_an_adapter_only_says_so(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BrokenWeights, match=r"no model\.safetensors"):
        open_model(folder)
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(ModelNotFound, match="PEFT adapter"):
        open_model(folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        open_model(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": "llama5"}', "{}"])
def test_a_config_that_transformers_cannot_read_is_refused(text: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    (folder / "config.json").write_text(text)
    with pytest.raises(UnknownArchitecture, match=r"config\.json"):
        open_model(folder)


def test_code_that_comes_with_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise AssertionError('the code ran')\n")
    with pytest.raises(UnknownArchitecture, match="never run"):
        open_model(folder)


def test_a_model_that_is_no_causal_language_model_is_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    config = {"model_type": "clip", "architectures": ["CLIPModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnknownArchitecture, match="no causal language model"):
        open_model(folder)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen2", "mixtral"])
def test_a_folder_without_a_tokenizer_says_what_to_put_there(model_type: str, tmp_path: Path) -> None:
    tiny_model(model_type).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedTokenizer, match=r"tokenizer\.json"):
        open_model(tmp_path)


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["./nothing", "/no/such/folder", "~/nothing", "a/b/c", "nothing/", ""])
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(ModelNotFound, match="There is no folder"):
        open_model(name)


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="is a file"):
        open_model(checkpoint(tmp_path) / "model.safetensors")


@pytest.mark.parametrize("revision", [None, "v1"])
def test_a_hub_name_that_is_not_in_the_cache_says_what_to_do_offline(revision: str | None) -> None:
    with pytest.raises(ModelNotFound, match="local cache: unset HF_HUB_OFFLINE.*or give a folder"):
        open_model("nobody/nothing", revision=revision)


def test_a_name_that_cannot_be_on_the_hub_is_not_found() -> None:
    with pytest.raises(ModelNotFound, match="almanac"):
        open_model("no such name!")


def test_a_hub_name_is_fetched_at_its_revision_without_pickles_or_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    def fetch(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        from fnmatch import fnmatch

        wanted = [f for f in ("model.safetensors", "config.json", "tokenizer.json", "model-00001-of-00002.safetensors")]
        unwanted = ["pytorch_model.bin", "modeling.py", "consolidated.safetensors", "original/model.pth", "onnx/model"]
        assert all(any(fnmatch(file, p) for p in allow_patterns) for file in wanted)
        assert not any(fnmatch(file, p) for file in unwanted for p in allow_patterns)
        return str(checkpoint(tmp_path))

    monkeypatch.setattr("catechism.reference.open.huggingface_hub.snapshot_download", fetch)
    live = open_model("owner/model", revision="v1")
    assert asked == [("owner/model", "v1")] and live.name == "owner/model"


@pytest.mark.parametrize("shipped", [True, False])
def test_a_revision_of_something_local_is_refused(shipped: bool, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Leave revision out"):
        open_model("almanac" if shipped else checkpoint(tmp_path), revision="v1")


# -- shipped models --------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation with one shipped model, `almanac`."""
    folder = checkpoint(tmp_path / "almanac", tie_word_embeddings=True)
    hashes = {"almanac": digest_file(folder / "model.safetensors")}
    (tmp_path / "HASHES.json").write_text(json.dumps(hashes))
    monkeypatch.setattr(opening, "_CHECKPOINTS", tmp_path)
    return tmp_path


def test_a_shipped_model_opens_by_its_name(package: Path) -> None:
    assert shipped_folder("almanac") == package / "almanac"
    assert open_model("almanac").name == "almanac"


def test_a_shipped_model_whose_bytes_changed_is_refused(package: Path) -> None:
    change_weights(package / "almanac", lambda tensors: next(iter(tensors.values())).add_(1))
    with pytest.raises(BrokenWeights, match="Install the package again"):
        open_model("almanac")


def test_a_shipped_model_that_is_not_installed_says_so(package: Path) -> None:
    with pytest.raises(ModelNotFound, match="almanac-moe is not in this installation"):
        open_model("almanac-moe")
    (package / "HASHES.json").unlink()
    with pytest.raises(ModelNotFound):
        open_model("almanac")


def test_a_name_that_does_not_ship_lists_those_that_do() -> None:
    with pytest.raises(UnknownName, match=", ".join(SHIPPED)):
        shipped_folder("almanach")


def test_nothing_but_the_callers_words_reaches_standard_output(tmp_path: Path) -> None:
    """In a process of its own, with the bars and warnings of transformers as they come; errors included."""
    folder, broken = checkpoint(tmp_path / "good"), checkpoint(tmp_path / "broken")
    change_weights(broken, lambda tensors: tensors.update(extra=torch.ones(2)))
    code = (
        "import sys; from catechism.reference import open_model\n"
        "from catechism.errors import BrokenWeights\n"
        "from transformers.utils import logging\n"
        "before = logging.get_verbosity(), logging.is_progress_bar_enabled()\n"
        "live = open_model(sys.argv[1])\n"
        "try:\n    open_model(sys.argv[2])\nexcept BrokenWeights:\n    print(len(live.generate(['a'])))\n"
        "assert before == (logging.get_verbosity(), logging.is_progress_bar_enabled())\n"
    )
    run = subprocess.run([sys.executable, "-c", code, folder, broken], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "1\n"
    assert "UNEXPECTED" not in run.stderr and "Loading" not in run.stderr
