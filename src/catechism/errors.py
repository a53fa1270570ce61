"""Every error that Catechism raises on purpose.

    CatechismError
    ├── UsageError (ValueError)             what the caller handed in is wrong
    │   ├── BadFact                         E101  a fact that cannot be used
    │   ├── BadFeed                         E102  a feed that cannot be read
    │   ├── BadPolicy                       E103  a gate policy that cannot be read
    │   ├── UnknownName (also KeyError)     E104  no method, model, suite or gate of that name
    │   └── BadSpec                         E105  a method's setting out of range
    ├── ModelError (RuntimeError)           the model cannot be opened or is not what it should be
    │   ├── UnknownArchitecture             E201  no row for this model_type
    │   ├── ArchitectureMismatch            E202  the row does not fit the live model
    │   ├── ModelNotFound                   E203  no such folder, or offline
    │   ├── UnsafeWeights                   E204  pickled weights
    │   ├── BrokenWeights                   E205  missing, surplus or non-finite tensors
    │   └── UnsupportedTokenizer            E206  no offsets, so a subject cannot be found
    ├── DeltaError (RuntimeError)           a change that must not be applied
    │   ├── UnsafeDelta                     E301  a pickle, or not a delta file
    │   ├── DeltaCorrupt                    E302  a hash that does not match its bytes
    │   ├── WrongBase                       E303  made for another base model
    │   ├── NonFiniteDelta                  E304  NaN or infinity in it
    │   ├── ShapeMismatch                   E305  a part that does not fit its matrix
    │   └── NotApplied                      E306  revert of what is not on the model
    ├── SolveError (ArithmeticError)
    │   ├── SingularCovariance              E401  too few tokens for the width
    │   └── NoConvergence                   E402  the value found does not make the model say the object
    ├── RevertError (RuntimeError)          E501  the bytes after a revert are not the recorded ones
    └── MissingExtra (ImportError)          E601  an optional package is not installed

A message says what is wrong (got and expected), then what to do about it. `code` names the page under
``docs/errors/``; errors are picklable, and a command line exit code belongs to each class.
"""

from __future__ import annotations


class CatechismError(Exception):
    """Base of every error raised on purpose. `code` names its page in the documentation."""

    code = "E000"
    exit_code = 1


class UsageError(CatechismError, ValueError):
    """What the caller handed in is wrong."""

    code = "E100"
    exit_code = 2


class BadFact(UsageError):
    """A fact that cannot be used: no subject, subject not in the prompt, control characters and so on."""

    code = "E101"


class BadFeed(UsageError):
    """A feed that cannot be read; the message names the line."""

    code = "E102"


class BadPolicy(UsageError):
    """A gate policy file that cannot be read or names an unknown metric."""

    code = "E103"


class UnknownName(UsageError, KeyError):
    """No method, model, suite or gate of that name; the message lists what there is."""

    code = "E104"

    def __str__(self) -> str:  # KeyError would print the message in quotes
        return str(self.args[0]) if self.args else ""


class BadSpec(UsageError):
    """A method's setting is out of range."""

    code = "E105"


class ModelError(CatechismError, RuntimeError):
    """The model cannot be opened, or is not what it should be."""

    code = "E200"


class UnknownArchitecture(ModelError):
    """The architecture table has no row for this ``model_type``."""

    code = "E201"


class ArchitectureMismatch(ModelError):
    """The row of the architecture table does not fit the live model."""

    code = "E202"


class ModelNotFound(ModelError):
    """No such model folder, or a hub name that is not in the local cache while offline."""

    code = "E203"


class UnsafeWeights(ModelError):
    """The weights are pickled; loading them could run code."""

    code = "E204"


class BrokenWeights(ModelError):
    """The checkpoint has missing, unexpected or non-finite tensors."""

    code = "E205"


class UnsupportedTokenizer(ModelError):
    """The tokenizer gives no character offsets, so the subject's tokens cannot be found."""

    code = "E206"


class DeltaError(CatechismError, RuntimeError):
    """A change that must not be applied."""

    code = "E300"


class UnsafeDelta(DeltaError):
    """The file is a pickle, or no delta file at all."""

    code = "E301"


class DeltaCorrupt(DeltaError):
    """The recorded hash does not match the bytes."""

    code = "E302"


class WrongBase(DeltaError):
    """The delta was made for another base model."""

    code = "E303"


class NonFiniteDelta(DeltaError):
    """The delta holds NaN or infinity."""

    code = "E304"


class ShapeMismatch(DeltaError):
    """A part of the delta does not fit the matrix it names."""

    code = "E305"


class NotApplied(DeltaError):
    """A revert of something that is not on the model."""

    code = "E306"


class SolveError(CatechismError, ArithmeticError):
    """A linear solve or a value search that has no usable answer."""

    code = "E400"


class SingularCovariance(SolveError):
    """The covariance cannot be inverted: too few tokens for the width of the layer."""

    code = "E401"


class NoConvergence(SolveError):
    """The value search ended without making the model say the new object."""

    code = "E402"


class RevertError(CatechismError, RuntimeError):
    """After a revert the bytes are not the recorded ones. The model in memory must not be used any more."""

    code = "E501"


class MissingExtra(CatechismError, ImportError):
    """An optional package is not installed; the message holds the command that installs it."""

    code = "E601"
