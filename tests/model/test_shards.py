"""A folder read tensor by tensor gives the same base, and an edited copy the same bytes, as the open model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from catechism.delta import Delta, LowRank
from catechism.errors import BrokenWeights, ModelNotFound, UsageError, WrongBase
from catechism.model import LiveModel
from catechism.model.shards import Shards
from catechism.types import Role, Site
from tests.tiny import tiny_model, tiny_tokenizer

ARCHITECTURES = ["llama", "gpt2", "phi3", "gemma2"]  # plain, transposed, fused, tied


def saved(folder: Path, model_type: str, dtype: torch.dtype = torch.float32, size: str = "20KB") -> LiveModel:
    model = tiny_model(model_type).to(dtype)
    model.save_pretrained(folder, max_shard_size=size)
    tiny_tokenizer().save_pretrained(folder)
    return LiveModel(model, tiny_tokenizer(), name="tiny")


def change(live: LiveModel) -> Delta:
    """Of an output matrix and of an input matrix, which may be a part of a fused one."""
    generator = torch.Generator().manual_seed(1)
    parts = {}
    for role in (Role.MLP_OUT, Role.MLP_IN):
        matrix = live.anatomy.matrix(Site(1, role))
        d_out, d_in = matrix.shape
        A, B = torch.randn(d_out, 2, generator=generator), torch.randn(2, d_in, generator=generator)
        parts[matrix.address] = LowRank(A, B)
    return Delta(live.base, parts)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_the_base_is_that_of_the_open_model(model_type: str, tmp_path: Path) -> None:
    live = saved(tmp_path, model_type)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1, "several files"
    assert Shards(tmp_path).base() == live.base


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_an_edited_folder_has_the_bytes_of_the_edited_model(
    model_type: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    live = saved(tmp_path / "base", model_type, dtype)
    delta = change(live)
    out = Shards(tmp_path / "base").write_edited(delta, tmp_path / "edited")
    live.apply(delta)
    before, after = tensors(tmp_path / "base"), tensors(out)
    assert before.keys() == after.keys()
    for name, parameter in live.model.named_parameters():
        assert torch.equal(after[name], parameter), name
    assert sum(not torch.equal(before[name], after[name]) for name in after) == 2
    assert (out / "config.json").is_file() and (out / "tokenizer.json").is_file()


def test_one_matrix_is_read_without_the_others(tmp_path: Path) -> None:
    live = saved(tmp_path, "llama")
    shards = Shards(tmp_path)
    matrix = shards.anatomy.matrix(Site(1, Role.MLP_OUT))
    assert matrix.parameter.device.type == "meta"
    kept = {shards._file_of[matrix.parameter_name], tmp_path / "config.json"}
    for file in tmp_path.glob("*.safetensors"):
        if file not in kept:
            file.unlink()
    assert torch.equal(shards.read(matrix.parameter_name), live.anatomy.matrix(Site(1, Role.MLP_OUT)).read())
    with pytest.raises(BrokenWeights, match="cannot be read"):
        shards.base()


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    live = saved(tmp_path / "base", "llama", size="1GB")
    with pytest.raises(UsageError, match="exists already"):
        Shards(tmp_path / "base").write_edited(change(live), tmp_path)
    with pytest.raises(WrongBase, match="was made for base other"):
        Shards(tmp_path / "base").write_edited(Delta("other", {}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelNotFound):
        Shards(tmp_path)
    (tmp_path / "base" / "model.safetensors").unlink()
    with pytest.raises(BrokenWeights, match="Copy it again"):
        Shards(tmp_path / "base")
