"""Deltas as PEFT adapters, and LoRA adapters as deltas.

A low-rank change is a LoRA adapter: ``lora_A`` is B, ``lora_B`` is A, and the scale alpha / r is 1 when alpha = r. The
adapter format has one rank for all modules in the form that every server reads, so shorter parts are padded with zeros,
which changes nothing. Nothing here imports `peft`; the folder is plain JSON and safetensors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from catechism.delta.delta import FORMAT, Delta
from catechism.delta.dense import Dense
from catechism.delta.file import write_atomically
from catechism.delta.low_rank import DTYPES, LowRank, tensor_bytes
from catechism.errors import (
    DeltaCorrupt,
    NonFiniteDelta,
    ShapeMismatch,
    UnsafeDelta,
    UsageError,
    WrongBase,
)
from catechism.hashing import canonical_json, digest_bytes
from catechism.types import JSON

_CONFIG, _WEIGHTS, _PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_PREFIX, _LORA_A, _LORA_B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_ROWS = re.compile(r"(?P<module>[^\[\]]+)\[(?P<start>\d+):(?P<stop>\d+)(:(?P<step>[1-9]\d*))?\]")

#: Settings that make an adapter more, or other, than a fixed low-rank change of whole matrices.
_NOT_LOW_RANK: Mapping[str, str] = {
    "use_dora": "DoRA rescales the columns of the base weight",
    "lora_bias": "it changes biases",
    "modules_to_save": "it replaces whole modules",
    "trainable_token_indices": "it replaces rows of the embedding",
    "target_parameters": "it changes fused parameters, which are not modules",
    "layer_replication": "it repeats layers of the base model",
    "alora_invocation_tokens": "it acts only after certain tokens",
    "use_qalora": "QA-LoRA pools its inputs",
    "use_bdlora": "its factors are block diagonal",
    "kasa_config": "KaSA adds singular values of its own",
    "monteclora_config": "it draws its weights at random",
    "arrow_config": "Arrow chooses between adapters token by token",
}
#: Initialisations that leave the base weights as they are. The others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) subtract
#: the first adapter from the base, so their tensors alone do not tell the change.
_KEEPS_BASE = (None, True, False, "gaussian", "eva", "orthogonal", "mica")


def to_peft(
    delta: Delta,
    folder: Path,
    *,
    base_model_name: str,
    fan_in_fan_out: bool = False,
    full_rows: Mapping[str, int] | None = None,
) -> Path:
    """Write a delta as a PEFT LoRA adapter: uniform rank, alpha = r, full module names as target modules.

    Args:
        delta: the change; the dtype of its parts is kept.
        folder: where the two files go; made if need be.
        base_model_name: name or folder of the base model, for `peft` and servers to find it.
        fan_in_fan_out: True for models whose linear maps are `Conv1D` (GPT-2).
        full_rows: for parts that change a slice of rows (``module[a:b]``): the number of rows of the module's whole
            weight. The slice is padded to it.

    Raises:
        NonFiniteDelta: the delta holds NaN or infinity.
        ShapeMismatch: a part is not low rank, or cannot be said as a change of a whole module.
        UsageError: the delta has no parts.
    """
    if not delta.is_finite():
        raise NonFiniteDelta("The delta holds NaN or infinity and is not exported. Fit it again in float32.")
    if not delta.parts:
        raise UsageError("The delta has no parts, and an adapter needs at least one module. Export another delta.")
    modules = _whole_modules(delta, full_rows or {})
    rank = max(1, *(part.rank for part in modules.values()))
    tensors: dict[str, Tensor] = {}
    for module, part in modules.items():
        tensors[_PREFIX + module + _LORA_A] = _padded(part.B, rows=rank)
        tensors[_PREFIX + module + _LORA_B] = _padded(part.A.T, rows=rank).T.contiguous()
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_model_name,
        "r": rank, "lora_alpha": rank, "target_modules": sorted(modules), "fan_in_fan_out": fan_in_fan_out,
        "lora_dropout": 0.0, "bias": "none", "use_rslora": False, "use_dora": False, "init_lora_weights": True,
        "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, "inference_mode": True,
    }  # fmt: skip
    note = canonical_json({"base": delta.base, "digest": delta.digest, "info": dict(delta.info)}).decode()
    folder = Path(folder)
    write_atomically(folder / _WEIGHTS, to_safetensors(tensors, {"format": "pt", FORMAT: note}))
    write_atomically(folder / _CONFIG, json.dumps(config, indent=2).encode() + b"\n")
    return folder


def from_peft(folder: Path, *, base: str) -> Delta:
    """Read a PEFT LoRA adapter as a delta of `base`; the scale alpha / r is worked into the factors.

    The adapter's own file cannot prove which base it was trained on; only an adapter that `to_peft` wrote says so, and
    is held to it.

    Raises:
        UnsafeDelta: pickled weights, no adapter, or an adapter that is not a fixed low-rank change.
        DeltaCorrupt: tensors that are missing, truncated or do not fit the configuration.
        WrongBase: exported from a delta of another base.
        NonFiniteDelta: NaN or infinity in it.
    """
    folder = Path(folder)
    config = _read_config(folder)
    tensors, note = _read_tensors(folder)
    if note is not None and note.get("base") != base:
        raise WrongBase(
            f"{folder}: exported from a delta of the base {note.get('base')}, got the base {base}. "
            "Open the model that it was fitted on, or fit it again on this one."
        )
    parts: dict[str, LowRank] = {}
    for module in sorted({_module_of(folder, name) for name in tensors}):
        lora_A, lora_B = tensors.get(_PREFIX + module + _LORA_A), tensors.get(_PREFIX + module + _LORA_B)
        if lora_A is None or lora_B is None:
            raise DeltaCorrupt(f"{folder}: {module!r} has only one of its two factors. Save the adapter again.")
        parts[module] = _part(folder, config, module, lora_A, lora_B)
    name = config.get("base_model_name_or_path")
    info: dict[str, JSON] = {"method": "peft", "adapter": _content_digest(tensors), "base_model_name": name}
    if note is not None:
        info["exported_from"] = {"digest": note.get("digest"), "info": note.get("info")}
    delta = Delta(base, parts, info)
    if not delta.is_finite():
        raise NonFiniteDelta(f"{folder}: the adapter holds NaN or infinity. Train it again at a lower learning rate.")
    return delta


def _whole_modules(delta: Delta, full_rows: Mapping[str, int]) -> dict[str, LowRank]:
    """The delta's parts as changes of whole modules; slices of one module become one part."""
    modules: dict[str, LowRank] = {}
    for address, part in delta.parts.items():
        if not isinstance(part, LowRank):
            fix = "Make it low rank with `Dense.factored`, or ship" if isinstance(part, Dense) else "Ship"
            raise ShapeMismatch(
                f"{address!r} is of kind {part.kind!r}, and a PEFT adapter holds low-rank changes alone. "
                f"{fix} this delta as a file with `catechism.delta.save`."
            )
        module, whole = address, part
        if "[" in address:
            module, whole = _padded_slice(address, part, full_rows)
        modules[module] = modules[module] + whole if module in modules else whole
    return modules


def _padded_slice(address: str, part: LowRank, full_rows: Mapping[str, int]) -> tuple[str, LowRank]:
    match = _ROWS.fullmatch(address)
    if match is None:
        raise ShapeMismatch(
            f"{address!r} is no module and no slice of a module's rows (one expert of a fused parameter is neither), "
            "and a PEFT adapter changes whole modules. "
            "Ship this delta as a file with `catechism.delta.save` instead."
        )
    module, rows = match["module"], full_rows.get(match["module"])
    if rows is None:
        raise ShapeMismatch(
            f"{address!r} is a slice of rows, and nothing says how many rows {module!r} has. "
            f"Pass `full_rows={{{module!r}: <rows of its weight>}}`."
        )
    changed = range(int(match["start"]), int(match["stop"]), int(match["step"] or 1))
    if len(changed) != part.shape[0] or changed.stop > rows:
        raise ShapeMismatch(
            f"{address!r} with {part.shape[0]} rows does not fit a weight of {rows} rows. "
            f"Correct `full_rows[{module!r}]`, or fit the delta anew."
        )
    A = part.A.new_zeros(rows, part.rank)
    A[changed.start : changed.stop : changed.step] = part.A
    return module, LowRank(A, part.B)


def _padded(matrix: Tensor, *, rows: int) -> Tensor:
    return torch.cat([matrix, matrix.new_zeros(rows - matrix.shape[0], matrix.shape[1])])


def _read_config(folder: Path) -> dict[str, JSON]:
    """The adapter's settings, once they say that it is a plain LoRA adapter in safetensors."""
    if not (folder / _WEIGHTS).is_file():
        if (folder / _PICKLED).exists():
            raise UnsafeDelta(
                f"{folder}: {_PICKLED} is a pickle, which can run code when it is opened; it was not opened. "
                "Ask its author to save the adapter with `safe_serialization=True`."
            )
        raise UnsafeDelta(f"{folder}: no {_WEIGHTS} there. Give the folder that `save_pretrained` of PEFT wrote.")
    try:
        config = json.loads((folder / _CONFIG).read_bytes())
    except FileNotFoundError:
        raise UnsafeDelta(f"{folder}: no {_CONFIG} there. Give the folder that PEFT wrote, with both files.") from None
    except (ValueError, RecursionError) as problem:
        raise DeltaCorrupt(f"{folder}: {_CONFIG} is not JSON ({problem}). Save the adapter again.") from problem
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise UnsafeDelta(f"{folder}: an adapter of type {kind!r}, not a low-rank change. Import LoRA adapters only.")
    for setting, reason in _NOT_LOW_RANK.items():
        if config.get(setting):
            raise _not_low_rank(folder, f"{setting} = {config[setting]!r}", reason)
    if config.get("bias", "none") != "none":
        raise _not_low_rank(folder, f"bias = {config['bias']!r}", "it changes biases")
    if config.get("init_lora_weights") not in _KEEPS_BASE:
        reason = "this start moves the base weights, so the tensors alone are not the change"
        raise _not_low_rank(folder, f"init_lora_weights = {config['init_lora_weights']!r}", reason)
    return config


def _not_low_rank(folder: Path, what: str, reason: str) -> UnsafeDelta:
    return UnsafeDelta(
        f"{folder}: the adapter has {what}: {reason}. Train a plain LoRA adapter, or convert this one "
        "(for PiSSA and its kin: `save_pretrained(..., path_initial_model_for_weight_conversion=...)`)."
    )


def _read_tensors(folder: Path) -> tuple[dict[str, Tensor], dict[str, JSON] | None]:
    """The adapter's tensors, and what `to_peft` noted beside them."""
    path = folder / _WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except SafetensorError as problem:
        raise DeltaCorrupt(f"{path}: not a whole safetensors file ({problem}). Fetch it again.") from problem
    if FORMAT not in metadata:
        return tensors, None
    try:
        note = json.loads(metadata[FORMAT])
    except (ValueError, RecursionError):
        note = None
    if not isinstance(note, dict):
        raise DeltaCorrupt(f"{path}: the {FORMAT} note is not JSON. Export the delta again with `to_peft`.")
    return tensors, note


def _module_of(folder: Path, name: str) -> str:
    """The full module name that a tensor of the adapter belongs to."""
    for ending in (_LORA_A, _LORA_B):
        if name.startswith(_PREFIX) and name.endswith(ending):
            return name[len(_PREFIX) : -len(ending)]
    raise _not_low_rank(folder, f"a tensor {name!r}", "it is no factor of a linear map")


def _part(folder: Path, config: Mapping[str, JSON], module: str, lora_A: Tensor, lora_B: Tensor) -> LowRank:
    rank = _setting(folder, config, "r", "rank_pattern", module)
    alpha = _setting(folder, config, "lora_alpha", "alpha_pattern", module)
    shapes = tuple(lora_A.shape), tuple(lora_B.shape)
    if lora_A.ndim != 2 or lora_B.ndim != 2 or not lora_A.shape[0] == lora_B.shape[1] == rank:
        raise DeltaCorrupt(
            f"{folder}: {module!r} has rank {rank:g} by {_CONFIG}, its factors are {shapes[0]} and {shapes[1]}. "
            "Save the adapter again, so that both files are of one kind."
        )
    if lora_A.dtype not in DTYPES or lora_B.dtype != lora_A.dtype:
        raise DeltaCorrupt(
            f"{folder}: the factors of {module!r} are {lora_A.dtype} and {lora_B.dtype}. "
            "Save the adapter again, in one floating dtype."
        )
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    part = LowRank(lora_B, lora_A)
    scaled = part.scaled(scale)
    if torch.equal(scaled.A.double(), part.A.double() * scale):
        return scaled
    wide = torch.promote_types(part.dtype, torch.float32)  # a scale such as 1 / sqrt(r) does not fit half precision
    return LowRank(part.A.to(wide), part.B.to(wide)).scaled(scale)


def _setting(folder: Path, config: Mapping[str, JSON], key: str, patterns_key: str, module: str) -> float:
    """A module's rank or alpha: the first pattern that matches the end of its name, else the adapter's own."""
    value = config.get(key)
    patterns = config.get(patterns_key) or {}
    for pattern, special in patterns.items() if isinstance(patterns, dict) else ():
        if _matches(folder, pattern, module):
            value = special
            break
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise DeltaCorrupt(
            f"{folder}: {key} of {module!r} is {value!r}. Correct it in {_CONFIG} to a number above zero."
        )
    return float(value)


def _matches(folder: Path, pattern: str, module: str) -> bool:
    # A pattern comes from a stranger: repeats of groups, and many repeats, can keep the matcher busy for ever.
    if re.search(r"\)[*+?{]", pattern) or len(re.findall(r"[*+{]", pattern)) > 3:
        raise UnsafeDelta(
            f"{folder}: the pattern {pattern!r} is too involved to be matched safely. "
            f"Write the full module names in {_CONFIG}."
        )
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error as problem:
        raise DeltaCorrupt(
            f"{folder}: the pattern {pattern!r} is no regular expression ({problem}). Correct it."
        ) from None


def _content_digest(tensors: Mapping[str, Tensor]) -> str:
    """Address of the adapter's tensors, whatever file they came in."""
    header: list[JSON] = [[name, str(t.dtype), list(t.shape)] for name, t in sorted(tensors.items())]
    return digest_bytes(canonical_json(header), *(tensor_bytes(tensors[name]) for name in sorted(tensors)))
