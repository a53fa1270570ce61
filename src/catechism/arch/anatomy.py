"""The parts of a live model, found by its row of the table: blocks, modules, and matrices by site or by address."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from catechism.arch.matrix import Address, Matrix
from catechism.arch.names import TABLE_FILE, closest, model_type_of, probe_command, resolve, setting_of
from catechism.arch.table import TABLE, Arch, Experts, Fusion, Glu
from catechism.errors import ArchitectureMismatch, UnknownArchitecture, UnknownName
from catechism.types import Role, Site

_EXPERT_ROLES = (Role.EXPERT_IN, Role.EXPERT_GATE, Role.EXPERT_OUT)


def anatomy(model: nn.Module) -> Anatomy:
    """The anatomy of a model whose ``config.model_type`` has a row in the table.

    Raises:
        UnknownArchitecture: there is no row; the message names the closest one and how to check a new one.
        ArchitectureMismatch: the row names something that the model has not.
    """
    model_type = model_type_of(model)
    if model_type in TABLE:
        return Anatomy(model, TABLE[model_type])
    row, found, names = closest(model)
    raise UnknownArchitecture(
        f"The architecture table has no row for model_type {model_type!r} ({type(model).__name__}); it has "
        f"{', '.join(sorted(TABLE))}. Add one line to {TABLE_FILE}, starting from the closest row, which is "
        f"{row.model_type!r} ({found} of its {names} names are in this model): "
        f"replace(TABLE[{row.model_type!r}], model_type={model_type!r}, ...). "
        f"Then check it with `{probe_command(model)}`."
    )


class Anatomy:
    """The parts of one live model under one row of the table. Holds no copies; sizes are read off the weights.

    Attributes:
        arch: the row.
        n_layers: number of blocks.
        d_model: width of the residual stream.
        d_ff: inner width of the MLP; of one expert, where the model has experts.
        n_experts: experts in a mixture layer; 0 for a dense model.
    """

    def __init__(self, model: nn.Module, arch: Arch) -> None:
        """Look up every name of the row in the model. Raises ArchitectureMismatch for one that is not there."""
        self.arch = arch
        self.model = model
        self._blocks = self._blocks_of(model)
        for layer in range(self.n_layers):
            self._check_block(layer)
        if not isinstance(self.embed, nn.Embedding):
            raise self._mismatch(arch.embed, "an embedding")
        self._linear(arch.head, transposed=False)
        for path in (arch.final_norm, arch.project_out):
            if path is not None:
                self.outside(path)
        self.n_experts = max(self.experts_in(layer) for layer in range(self.n_layers))
        widest = Role.EXPERT_OUT if self.n_experts else Role.MLP_OUT
        self.d_model, self.d_ff = self.matrix(self.sites(widest)[0]).shape

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self._blocks)

    @property
    def embed(self) -> nn.Module:
        """The token embedding."""
        return self._named(self.arch.embed)

    @property
    def final_norm(self) -> nn.Module:
        """The norm before the head; an identity where the model has none (opt-350m)."""
        return self.outside(self.arch.final_norm)

    @property
    def project_out(self) -> nn.Module:
        """The matrix between final norm and head; an identity where the model has none, which is the rule."""
        return nn.Identity() if self.arch.project_out is None else self.outside(self.arch.project_out)

    @property
    def head(self) -> nn.Module:
        """The module that makes logits."""
        return self._named(self.arch.head)

    def unembed(self, hidden: Tensor) -> Tensor:
        """Logits of a residual stream (..., d_model) after the last block: norm, projection, head, soft cap."""
        return self.capped(self.head(self.project_out(self.final_norm(hidden))))

    def capped(self, logits: Tensor) -> Tensor:
        """Logits under the model's soft cap; as they are if it has none."""
        cap = None if self.arch.softcap is None else self.setting(self.arch.softcap)
        return torch.tanh(logits / cap) * cap if isinstance(cap, float | int) else logits

    def outside(self, path: str) -> nn.Module:
        """A module outside the blocks; an identity where the attribute is None, as some models switch a part off."""
        parent, _, name = path.rpartition(".")
        holder = resolve(self.model, parent)
        if holder is None or not isinstance(getattr(holder, name, ""), nn.Module | None):
            raise self._mismatch(path, "a module or None")
        return getattr(holder, name) or nn.Identity()

    def block(self, layer: int) -> nn.Module:
        """One block. Its output, or the first element of it, is the residual stream."""
        if not 0 <= layer < self.n_layers:
            raise UnknownName(f"There is no layer {layer}. Choose one from 0 to {self.n_layers - 1}.")
        return self._blocks[layer]

    def attention(self, layer: int) -> nn.Module:
        """The attention module; the first element of its output goes to the residual stream."""
        return self._in_block(layer, self.arch.attn)

    def mlp(self, layer: int) -> nn.Module:
        """The MLP module, dense or mixture. Its output, or the first element of it, goes to the residual stream.

        Raises:
            ArchitectureMismatch: the family has no such module (opt); `mlp_ends` serves every family.
        """
        if self.arch.mlp is None:
            raise ArchitectureMismatch(
                f"A block of {self.arch.model_type!r} holds its MLP's matrices itself and has no MLP module. "
                "Use mlp_ends(layer), which gives the module to hook for its input and the one for its output."
            )
        return self._in_block(layer, self.arch.mlp)

    def mlp_ends(self, layer: int) -> tuple[nn.Module, nn.Module]:
        """The module whose input is the MLP's input, and the one whose output is the MLP's output.

        Both are the MLP module where there is one. In opt the two matrices stand in for it, and their tensors are
        (rows * tokens, width).
        """
        if self.arch.mlp is not None:
            return self.mlp(layer), self.mlp(layer)
        return self.module(Site(layer, Role.MLP_IN)), self.module(Site(layer, Role.MLP_OUT))

    def norm(self, layer: int, name: str) -> nn.Module | None:
        """A norm of a block by its field of `Norms`; None where the family has none at that place."""
        path = getattr(self.arch.norms, name)
        return None if path is None else self._in_block(layer, path)

    @property
    def writes_straight(self) -> bool:
        """Whether what an MLP writes is added to the residual stream as it is, with no norm after it in the block."""
        return self.arch.norms.mlp_post is None and self.setting(self.arch.norm_first) is True

    def experts(self, layer: int) -> nn.Module:
        """The module that holds the experts of a mixture layer. Raises ArchitectureMismatch for a dense layer."""
        return self._in_block(layer, self._layout.path)

    def activation(self, layer: int) -> nn.Module:
        """The activation module of the dense MLP, or of the experts. Raises ArchitectureMismatch if it has none."""
        if self.experts_in(layer):
            return self._in_block(layer, f"{self._layout.path}.{self._layout.act or 'act_fn'}")
        return self._in_block(layer, self.arch.mlp_act or "mlp.act_fn")

    def setting(self, value: bool | str) -> object:
        """A row's entry that is either the value itself or the name of the config attribute that holds it."""
        return setting_of(self.model, value) if isinstance(value, str) else value

    def experts_in(self, layer: int) -> int:
        """Number of experts in this layer; 0 for a dense one."""
        layout = self.arch.experts
        module = None if layout is None else resolve(self.block(layer), layout.path)
        stacked = None if layout is None else getattr(module, layout.out, None)
        return len(stacked) if isinstance(stacked, nn.Parameter) else 0

    def sites(self, *roles: Role) -> list[Site]:
        """The sites of these roles, of all roles if none is given, by layer, role and expert."""
        wanted = roles or tuple(Role)
        return [site for layer in range(self.n_layers) for site in self._sites_in(layer) if site.role in wanted]

    def has(self, site: Site) -> bool:
        """True if the model has this site."""
        if not 0 <= site.layer < self.n_layers:
            return False
        n_experts = self.experts_in(site.layer)
        if site.role in _EXPERT_ROLES:
            return site.expert is not None and 0 <= site.expert < n_experts
        here = (Role.ATTN_OUT, Role.ROUTER) if n_experts else (Role.ATTN_OUT, Role.MLP_IN, Role.MLP_GATE, Role.MLP_OUT)
        return site.expert is None and site.role in here and getattr(self.arch, site.role.value) is not None

    def module(self, site: Site) -> nn.Module:
        """The module of a site: its input is the site's key, its output the value.

        A router's value is the first element of its output. Where two roles share a module (phi3), the value is
        ``output[..., matrix(site).rows]``.

        Raises:
            ArchitectureMismatch: an expert's matrix is a part of a fused parameter and has no module of its own.
            UnknownName: there is no such site.
        """
        path = self._path(site)
        if site.role in _EXPERT_ROLES:
            raise ArchitectureMismatch(
                f"{site.role} of expert {site.expert} in layer {site.layer} has no module of its own: all experts of "
                f"the layer are one parameter of {self._full(site.layer, path)!r}. "
                "Hook the router or mlp(layer), and compute the expert's key from matrix(site)."
            )
        return self._in_block(site.layer, path)

    def linears(self, layer: int) -> dict[str, nn.Module]:
        """Every linear module of a block by its address: all of the attention's, and those of a dense MLP.

        Where several matrices share a module (phi3's gate and input, GPT-2's queries, keys and values) it is named
        once, whole. Routers and experts are no linear modules.
        """
        found: dict[str, nn.Module] = {}
        for name, module in self.block(layer).named_modules():
            weight = getattr(module, "weight", None)
            matrix = isinstance(weight, nn.Parameter) and weight.ndim == 2 and not isinstance(module, nn.Embedding)
            if matrix and (self.arch.transposed or isinstance(module, nn.Linear)):
                found[self._full(layer, name)] = module
        return found

    def matrix(self, where: Site | str) -> Matrix:
        """The matrix of a site or of an address. An address may also name any other linear module of the model.

        Raises:
            UnknownName: there is no such site or address.
            ArchitectureMismatch: the parameter is not a matrix of floating-point numbers (quantised weights).
        """
        if isinstance(where, str):
            return self._matrix_at(where)
        path, role = self._full(where.layer, self._path(where)), where.role
        if role not in _EXPERT_ROLES:
            fusion = self.arch.fusion if role in (Role.MLP_IN, Role.MLP_GATE) else None
            return self._linear(path, self.arch.transposed and role is not Role.ROUTER, fusion, role)
        layout = self._layout
        name, fusion = (layout.out, None) if role is Role.EXPERT_OUT else (layout.gate_in, layout.fusion)
        module = self._named(path)
        parameter = getattr(module, name)
        bias = getattr(module, f"{name}_bias") if layout.biased else None
        rows = _rows(parameter, layout.transposed, fusion, role)
        address = Address(f"{path}.{name}", rows, where.expert)
        return self._view(address, address.name, parameter, bias, layout.transposed)

    # names

    @property
    def _layout(self) -> Experts:
        if self.arch.experts is None:
            raise ArchitectureMismatch(
                f"The row {self.arch.model_type!r} has no experts. Set `experts` in the row if the model has some."
            )
        return self.arch.experts

    def _blocks_of(self, model: nn.Module) -> nn.ModuleList:
        blocks = resolve(model, self.arch.layers)
        if not isinstance(blocks, nn.ModuleList) or not len(blocks):
            raise self._mismatch(self.arch.layers, "a list of blocks")
        return blocks

    def _check_block(self, layer: int) -> None:
        arch, mixture = self.arch, self.experts_in(layer) > 0
        if arch.mlp_in is None and not mixture:
            path = f"{arch.experts.path}.{arch.experts.out}" if arch.experts else "mlp"
            raise self._mismatch(self._full(layer, path), "a parameter with all experts")
        dense = () if mixture else (arch.mlp_in, arch.mlp_gate, arch.mlp_out, arch.mlp_act)
        norms = (arch.norms.attn, arch.norms.attn_post, arch.norms.mlp, arch.norms.mlp_post)
        for path in (arch.attn, arch.attn_out, arch.mlp, arch.router if mixture else None, *norms, *dense):
            if path is not None:
                self._in_block(layer, path)
        if mixture:
            layout = self._layout
            if layout.glu is Glu.PLAIN:
                self.activation(layer)
            elif not hasattr(self.experts(layer), "limit"):
                raise self._mismatch(self._full(layer, f"{layout.path}.limit"), "the limit of a clamped gate")
            biases = (f"{layout.gate_in}_bias", f"{layout.out}_bias") if layout.biased else ()
            for name in (layout.gate_in, layout.out, *biases):
                if not isinstance(getattr(self.experts(layer), name, None), nn.Parameter):
                    raise self._mismatch(self._full(layer, f"{layout.path}.{name}"), "a parameter with all experts")

    def _named(self, path: str) -> nn.Module:
        module = resolve(self.model, path)
        if module is None:
            raise self._mismatch(path, "a module")
        return module

    def _in_block(self, layer: int, path: str) -> nn.Module:
        module = resolve(self.block(layer), path)
        if module is None:
            raise self._mismatch(self._full(layer, path), "a module")
        return module

    def _full(self, layer: int, path: str) -> str:
        return f"{self.arch.layers}.{layer}.{path}"

    def _mismatch(self, path: str, what: str) -> ArchitectureMismatch:
        parent = path
        while parent and resolve(self.model, parent) is None:
            parent = parent.rpartition(".")[0]
        holder = resolve(self.model, parent) or self.model
        names = [name for name, _ in (*holder.named_children(), *holder.named_parameters(recurse=False))]
        return ArchitectureMismatch(
            f"The row {self.arch.model_type!r} names {path!r} as {what}, but this {type(self.model).__name__} has none "
            f"there; {parent or 'the model'!r} has {', '.join(names) or 'nothing'}. Open the model as a causal "
            "language model without wrappers and in a floating-point dtype; if it is that already, correct the row in "
            f"{TABLE_FILE} and check it with `{probe_command(self.model)}`."
        )

    # matrices

    def _sites_in(self, layer: int) -> Iterator[Site]:
        for role in Role:
            experts = range(self.experts_in(layer)) if role in _EXPERT_ROLES else (None,)
            yield from (site for expert in experts if self.has(site := Site(layer, role, expert)))

    def _path(self, site: Site) -> str:
        """The module that holds the site's parameter, relative to the block."""
        if self.has(site):
            return self._layout.path if site.role in _EXPERT_ROLES else getattr(self.arch, site.role.value)
        self.block(site.layer)  # a layer out of range has its own message
        n_experts = self.experts_in(site.layer)
        roles = ", ".join(dict.fromkeys(s.role.value for s in self._sites_in(site.layer)))
        experts = f", and the expert's number from 0 to {n_experts - 1} with the expert roles" if n_experts else ""
        wanted = site.role.value + ("" if site.expert is None else f" of expert {site.expert}")
        raise UnknownName(f"Layer {site.layer} has no {wanted}; it has {roles}. Choose one of these{experts}.")

    def _matrix_at(self, text: str) -> Matrix:
        address = Address.parse(text)
        if address.rows is None and address.expert is None:
            module = resolve(self.model, address.name)
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.ndim == 2 and not isinstance(module, nn.Embedding):
                # torch keeps (d_out, d_in); where the row says otherwise it speaks of the other linear class
                matrix = self._linear(address.name, self.arch.transposed and not isinstance(module, nn.Linear))
                # a tied weight goes by its first name in named_parameters
                first = next((name for name, p in self.model.named_parameters() if p is weight), matrix.parameter_name)
                return replace(matrix, parameter_name=first)
        prefix = self.arch.layers + "."
        layer = address.name.removeprefix(prefix).partition(".")[0]
        if address.name.startswith(prefix) and layer.isdigit() and int(layer) < self.n_layers:
            for site in self._sites_in(int(layer)):
                if site.expert == address.expert and (matrix := self.matrix(site)).address == text:
                    return matrix
        example = self.matrix(self.sites()[-1]).address
        raise UnknownName(
            f"This {self.arch.model_type} model has no matrix {text!r}. "
            f"Name a linear module, or take an address from matrix(site).address, for instance {example!r}."
        )

    def _linear(self, name: str, transposed: bool, fusion: Fusion | None = None, role: Role | None = None) -> Matrix:
        module = self._named(name)
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.ndim != 2:
            raise self._mismatch(f"{name}.weight", "a matrix")
        address = Address(name, _rows(weight, transposed, fusion, role))
        return self._view(address, f"{name}.weight", weight, getattr(module, "bias", None), transposed)

    def _view(
        self, address: Address, name: str, parameter: nn.Parameter, bias: nn.Parameter | None, transposed: bool
    ) -> Matrix:
        if not parameter.is_floating_point():
            raise ArchitectureMismatch(
                f"{name!r} is stored as {parameter.dtype}, a quantised weight that cannot be edited. "
                "Open the model unquantised, with dtype float32 or bfloat16."
            )
        d_out, d_in = parameter.shape[-2:][::-1] if transposed else parameter.shape[-2:]
        rows = address.rows or slice(0, d_out)
        shape = (len(range(*rows.indices(d_out))), d_in)
        return Matrix(str(address), name, parameter, bias, shape, transposed, rows, address.expert)


def _rows(parameter: Tensor, transposed: bool, fusion: Fusion | None, role: Role | None) -> slice | None:
    """The rows that are the gate's, or the input's, where both share the parameter; None where nothing is shared."""
    total, is_gate = parameter.shape[-1 if transposed else -2], role in (Role.MLP_GATE, Role.EXPERT_GATE)
    if fusion is Fusion.HALVES:
        return slice(0, total // 2) if is_gate else slice(total // 2, total)
    if fusion is Fusion.INTERLEAVED:
        return slice(0 if is_gate else 1, total, 2)
    return None
