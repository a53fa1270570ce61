"""Every error that Catechism raises on purpose.

    CatechismError
    ├── UsageError (ValueError)             what the caller handed in is wrong
    │   ├── BadFact                         E101  a fact that cannot be used
    │   ├── BadFeed                         E102  a feed that cannot be read
    │   ├── BadPolicy                       E103  a gate policy that cannot be read
    │   ├── UnknownName (also KeyError)     E104  no method, model, suite or gate of that name
    │   ├── BadSpec                         E105  a method's setting out of range
    │   ├── Unclear                         E106  a sentence that could mean several things, or none
    │   └── Entangled                       E107  too much of what has to stay depends on what is to be forgotten
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
    ├── MissingExtra (ImportError)          E601  an optional package is not installed
    ├── EndpointError (RuntimeError)        E602  a configured endpoint cannot be asked
    ├── Interrupted (RuntimeError)          E603  Ctrl-C
    └── RegistryError (RuntimeError)        the store of edits cannot do what was asked
        ├── StoreReadOnly                   E701  the store cannot be written to
        ├── StoreFull                       E702  no space left for the store
        ├── StoreBusy                       E703  another process holds the database
        ├── SchemaMismatch                  E704  made by a newer release, or no store at all
        ├── StoreDamaged                    E705  a hash, signature or chain that does not match
        ├── UnknownEdit (also LookupError)  E706  no edit, or more than one, under this name
        ├── UnknownDate (also LookupError)  E707  a date that cannot be read or lies before the store
        ├── Denied                          E708  approvals are missing
        ├── Conflict                        E709  something else changed, or contradicts it
        ├── WrongState                      E710  not possible in the state that the edit is in
        ├── BadBundle                       E711  an import that does not prove itself
        ├── Sealed                          E712  the way back was destroyed
        └── BadCertificate                  E713  a file that is no certificate

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


class Unclear(UsageError):
    """A sentence whose subject, relation and object cannot be told; the message is a question back."""

    code = "E106"


class Entangled(UsageError):
    """More than half of what has to stay depends on what is to be forgotten; the message names the nearest."""

    code = "E107"
    exit_code = 3


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
    """The value search ended without making the model say the new object.

    Attributes:
        facts: numbers of the facts that it holds for, among those that were handed in; empty if it is about all.
    """

    code = "E402"
    facts: tuple[int, ...] = ()


class RevertError(CatechismError, RuntimeError):
    """After a revert the bytes are not the recorded ones. The model in memory must not be used any more."""

    code = "E501"


class MissingExtra(CatechismError, ImportError):
    """An optional package is not installed; the message holds the command that installs it."""

    code = "E601"


class RegistryError(CatechismError, RuntimeError):
    """The store of edits cannot do what was asked."""

    code = "E700"


class StoreReadOnly(RegistryError):
    """The store's folder or database cannot be written to."""

    code = "E701"


class StoreFull(RegistryError):
    """There is no space left for the store; nothing was changed."""

    code = "E702"


class StoreBusy(RegistryError):
    """Another process holds the database for longer than was waited."""

    code = "E703"


class SchemaMismatch(RegistryError):
    """The database was made by a newer release, or is none of ours."""

    code = "E704"


class StoreDamaged(RegistryError):
    """A hash, a signature or the audit chain does not match what is stored."""

    code = "E705"


class UnknownEdit(RegistryError, LookupError):
    """No edit goes by this id or digest, or more than one does; the message lists close ones."""

    code = "E706"
    exit_code = 2


class UnknownDate(RegistryError, LookupError):
    """A date that cannot be read, or that lies before the store's first epoch; also an epoch that there is not."""

    code = "E707"
    exit_code = 2


class Denied(RegistryError):
    """The policy does not let it through: approvals are missing, or the last test was no pass."""

    code = "E708"
    exit_code = 3


class Conflict(RegistryError):
    """Something else changed in the meantime, or an active fact says otherwise."""

    code = "E709"
    exit_code = 4


class WrongState(RegistryError):
    """What was asked is not possible in the state that the edit is in."""

    code = "E710"
    exit_code = 4


class BadBundle(RegistryError):
    """An import that does not prove itself: a hash, a signature, a name or a size that must not be."""

    code = "E711"


class Sealed(RegistryError):
    """The edit is sealed: what would be needed was destroyed, so that there is no way back."""

    code = "E712"
    exit_code = 4


class BadCertificate(RegistryError):
    """The file is no certificate of forgetting, or of another release."""

    code = "E713"


class EndpointError(CatechismError, RuntimeError):
    """A configured endpoint cannot be reached, or does not answer as it should."""

    code = "E602"


class Interrupted(CatechismError, RuntimeError):
    """Somebody pressed Ctrl-C. The exit code is that of a process ended by SIGINT in every shell."""

    code = "E603"
    exit_code = 130

    def __init__(self, message: str = "") -> None:
        super().__init__(
            message
            or "Interrupted. What had ended is kept and nothing is half done. Run the same command again to go on: "
            "rows that were learned before are found and left out."
        )
