"""All knowledge of model architectures: a table keyed by ``model_type`` and a probe that checks a row by value."""

from catechism.arch.anatomy import Anatomy, anatomy
from catechism.arch.matrix import Address, Matrix
from catechism.arch.mlp import mixture_value, mlp_key, mlp_value
from catechism.arch.probe import Check, ProbeReport, probe
from catechism.arch.table import TABLE, Arch, Experts, Fusion, Glu, Norms

__all__ = [
    "TABLE",
    "Address",
    "Anatomy",
    "Arch",
    "Check",
    "Experts",
    "Fusion",
    "Glu",
    "Matrix",
    "Norms",
    "ProbeReport",
    "anatomy",
    "mixture_value",
    "mlp_key",
    "mlp_value",
    "probe",
]
