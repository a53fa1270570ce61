"""Open a model: one that ships with the package, a folder, or a name on the Hugging Face hub.

Opening runs no code from a checkpoint: safetensors only, and no remote code. Every tensor that the architecture
wants must be in the checkpoint, nothing else may be, and all of them must be finite.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, cast

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

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
from catechism.model import LiveModel

#: Names of the checkpoints that ship with the package.
SHIPPED = ("almanac", "almanac-control", "almanac-moe")

_CHECKPOINTS = Path(__file__).parent / "checkpoints"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.*", "*.tiktoken")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}
#: What is fetched from the hub: never a pickle, never code, nothing from a sub-folder.
_WANTED = (
    "*config.json", _WEIGHTS, _INDEX, "model-*-of-*.safetensors", "tokenizer*", "special_tokens_map.json",
    "added_tokens.json", "vocab.*", "merges.txt", "chat_template.*", "spiece.model", "*.tiktoken",
)  # fmt: skip


def open_model(
    name_or_folder: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    device_map: str | Mapping[str, int | str] | None = None,
    revision: str | None = None,
) -> LiveModel:
    """Open a causal language model with its tokenizer.

    Args:
        name_or_folder: ``almanac``, ``almanac-control`` or ``almanac-moe``; a folder; or a hub name. A folder that is
            called like a shipped model is meant by its path: ``./almanac``.
        dtype: ``float32``, ``bfloat16`` or ``float16`` (also ``fp32``, ``bf16``, ``fp16``).
        device_map: where the weights go: one device (``cuda``, ``cuda:1``, ``mps``); or, with accelerate installed,
            ``auto`` or a map from modules to devices, as transformers takes it. None is the CPU.
        revision: branch, tag or commit of a hub name.

    Raises:
        ModelNotFound: no such folder, or a hub name that is not there or, offline, not in the local cache.
        UnsafeWeights: the folder has pickled weights only.
        BrokenWeights: missing, unexpected, misshapen or non-finite tensors, or a file that cannot be read.
        UnknownArchitecture: transformers or the architecture table does not know the model type.
        UnsupportedTokenizer: there is no tokenizer that can be opened.
        MissingExtra: a `device_map` of several devices without accelerate.
        UsageError: an unknown dtype or device, or a revision of something that is not on the hub.
    """
    name = os.fspath(name_or_folder)
    if dtype not in _DTYPES:
        raise UsageError(f"dtype={dtype!r} is not known. Use one of {', '.join(_DTYPES)}.")
    device = _single_device(device_map)
    if device is None and importlib.util.find_spec("accelerate") is None:
        raise MissingExtra(
            f"device_map={device_map!r} needs accelerate. Run `pip install accelerate`, or name one device, say 'cuda'."
        )
    folder = _folder(name, revision)
    _check_files(folder)
    with _quiet():
        model = _load(folder, _DTYPES[dtype], device_map if device is None else None)
        tokenizer = _tokenizer(folder)
    _check_finite(model, dtype)
    return LiveModel(_moved(model, device) if device else model, tokenizer, name=name)


def shipped_folder(name: str) -> Path:
    """Folder of a shipped model, its weights checked against the recorded hash.

    Raises: UnknownName; ModelNotFound if it is not in this installation; BrokenWeights if the hash does not match.
    """
    if name not in SHIPPED:
        raise UnknownName(f"No model {name!r} ships with the package. Choose one of {', '.join(SHIPPED)}.")
    folder, listed = _CHECKPOINTS / name, _CHECKPOINTS / "HASHES.json"
    if not (folder / _WEIGHTS).is_file() or not listed.is_file():
        raise ModelNotFound(
            f"{name} is not in this installation ({folder}). Install the package again, or give a folder."
        )
    expected, found = json.loads(listed.read_bytes()).get(name), digest_file(folder / _WEIGHTS)
    if found != expected:
        raise BrokenWeights(
            f"The weights of {name} are {found}, recorded was {expected}. Install the package again: the file was "
            "changed or cut off."
        )
    return folder


# -- where it is -------------------------------------------------------------------------------------------------------


def _folder(name: str, revision: str | None) -> Path:
    path = Path(name).expanduser()
    there = bool(name) and path.exists()
    local = name in SHIPPED or there or _looks_like_a_path(name)
    if local and revision is not None:
        raise UsageError(f"revision={revision!r} is for hub names, {name!r} is a folder. Leave revision out.")
    if name in SHIPPED:
        return shipped_folder(name)
    if there and path.is_dir():
        return path
    if there:
        raise ModelNotFound(f"{name} is a file. Give the folder that holds config.json and {_WEIGHTS}.")
    if local:
        raise ModelNotFound(f"There is no folder {name}. Check the path; a hub name looks like 'owner/model'.")
    return _from_hub(name, revision)


def _looks_like_a_path(name: str) -> bool:
    return not name or name.startswith((".", "~", "/")) or name.count("/") > 1 or "\\" in name or name.endswith("/")


def _from_hub(name: str, revision: str | None) -> Path:
    """Folder of a hub model in the local cache, fetched if need be."""
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(_WANTED)))
    except (OSError, ValueError, HfHubHTTPError) as error:
        first = str(error).strip().partition("\n")[0]
        at = f" at revision {revision!r}" if revision else ""
        raise ModelNotFound(
            f"{name!r}{at} is neither a folder nor a shipped model ({', '.join(SHIPPED)}), and the hub gave none: "
            f"{first} Offline, a hub name works only if it is in the local cache: unset HF_HUB_OFFLINE and go online "
            "once, or give a folder. For a private or gated model run `hf auth login`."
        ) from error


def _single_device(device_map: str | Mapping[str, int | str] | None) -> torch.device | None:
    """The one device that is meant; None if the layers are to be shared out. Raises UsageError for no device."""
    if isinstance(device_map, Mapping) or device_map in _STRATEGIES:
        return None
    try:
        return torch.device(device_map or "cpu")
    except RuntimeError as error:
        raise UsageError(
            f"device_map={device_map!r} is no device. Use a name such as 'cpu' or 'cuda:0', or 'auto'."
        ) from error


def _moved(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    try:
        cast(nn.Module, model).to(device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch built without this kind of device
        raise UsageError(
            f"The model cannot be put on {device}: {_first_line(error)} Leave device_map out, "
            "or run `catechism doctor` to see which devices there are."
        ) from error
    return model


# -- what is in it -----------------------------------------------------------------------------------------------------


def _check_files(folder: Path) -> None:
    """The folder is a whole model without pickles: a config, and every weight file that it names."""
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ModelNotFound(f"{folder} is a PEFT adapter, not a model. Open its base model, and import the adapter.")
    if not (folder / "config.json").is_file():
        raise ModelNotFound(f"{folder} has no config.json. Give the folder that `save_pretrained` wrote.")
    if (folder / _WEIGHTS).is_file():
        return
    if (folder / _INDEX).is_file():
        _check_shards(folder)
        return
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        raise UnsafeWeights(
            f"{folder} has pickled weights only ({_some(pickles)}); loading them could run code. Convert them on a "
            "machine that may run it: load with transformers there, then "
            "`model.save_pretrained(FOLDER, safe_serialization=True)`, which writes safetensors."
        )
    raise BrokenWeights(f"{folder} has no {_WEIGHTS} and no {_INDEX}. Copy or download the weights again.")


def _check_shards(folder: Path) -> None:
    try:
        shards = set(json.loads((folder / _INDEX).read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenWeights(f"{folder / _INDEX} cannot be read: {error!r}. Copy or download it again.") from error
    pickles = sorted(shard for shard in shards if not shard.endswith(".safetensors"))
    if pickles:
        raise UnsafeWeights(f"{_INDEX} names files that are no safetensors ({_some(pickles)}). Convert them first.")
    missing = sorted(shard for shard in shards if not (folder / shard).is_file())
    if missing:
        raise BrokenWeights(
            f"{folder} lacks {len(missing)} of {len(shards)} weight files ({_some(missing)}). Download them again."
        )


def _load(folder: Path, dtype: torch.dtype, device_map: str | Mapping[str, int | str] | None) -> PreTrainedModel:
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise UnknownArchitecture(
            f"transformers cannot read {folder / 'config.json'}: {_first_line(error)} Upgrade transformers if the "
            "model is newer, or correct the file; code that comes with a checkpoint is never run."
        ) from error
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            device_map=device_map,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # so that they are listed in `info`; they are refused below
            output_loading_info=True,
        )
    except (SafetensorError, RuntimeError, OSError) as error:
        raise BrokenWeights(
            f"The weights in {folder} cannot be loaded: {_first_line(error)} Copy or download them again, "
            "and check that config.json belongs to them."
        ) from error
    except ValueError as error:  # a config that no causal language model class goes with
        raise UnknownArchitecture(
            f"{folder} is no causal language model for transformers: {_first_line(error)} Give a model with a "
            "language-model head."
        ) from error
    model, info = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    _check_tensors(folder, info)
    return model


def _check_tensors(folder: Path, info: Mapping[str, Any]) -> None:
    """Every tensor found its place. Tied weights are stored once and are not missing."""
    misshapen = [f"{key} {tuple(got)} for {tuple(want)}" for key, got, want in info.get("mismatched_keys") or ()]
    problems = {
        "missing": info.get("missing_keys"),
        "unexpected": info.get("unexpected_keys"),
        "misshapen": misshapen,
        "unreadable": info.get("error_msgs"),
    }
    found = [f"{len(names)} {kind} ({_some(sorted(names))})" for kind, names in problems.items() if names]
    if found:
        raise BrokenWeights(
            f"The tensors in {folder} are not those of its config.json: {'; '.join(found)}. Copy or download the "
            "checkpoint again, or give the config.json that belongs to these weights."
        )


def _check_finite(model: nn.Module, dtype: str) -> None:
    offloaded = [name for name, p in model.named_parameters() if p.device.type == "meta"]
    if offloaded:
        raise BrokenWeights(
            f"{len(offloaded)} tensors were left on disk ({_some(offloaded)}), where they cannot be edited. "
            "Use a device_map that fits in memory, or dtype='bfloat16'."
        )
    bad = [name for name, p in model.named_parameters() if p.is_floating_point() and not _finite(p)]
    if bad:
        hint = "; a checkpoint made in bfloat16 can overflow in float16" if _DTYPES[dtype] == torch.float16 else ""
        raise BrokenWeights(
            f"{len(bad)} tensors hold NaN or infinity in {dtype} ({_some(bad)}){hint}. Download the checkpoint again, "
            "or use dtype='float32'."
        )


def _finite(tensor: torch.Tensor) -> bool:
    # the sum is finite only if all entries are; where it overflows the entries are looked at one by one
    return bool(torch.isfinite(tensor.detach().sum(dtype=torch.float32))) or bool(torch.isfinite(tensor).all())


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    if not any(file for pattern in _VOCABULARIES for file in folder.glob(pattern)):
        # some classes would make an empty tokenizer out of nothing
        raise UnsupportedTokenizer(f"{folder} has no tokenizer. Put the model's tokenizer.json there.")
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError, ImportError, TypeError) as error:
        raise UnsupportedTokenizer(
            f"The tokenizer in {folder} cannot be opened: {_first_line(error)} Put the model's tokenizer.json there."
        ) from error


# -- words and noise ---------------------------------------------------------------------------------------------------


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _first_line(error: BaseException) -> str:
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return line if line.endswith((".", "!", "?")) else f"{line}."


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep standard output clean, and transformers' bars and reports away: what they say is raised as an error."""
    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity(logging.CRITICAL)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
