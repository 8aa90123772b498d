"""Every error weightd raises. Catch WeightdError to catch them all.

Three kinds, by who is wrong:

* RefusedError: the request was understood and will not be done. Nothing changed.
* BrokenPeerError: the process at the other end died, is not there, or broke the protocol.
* UsageError: this process used an object in a way it cannot be used.

Each message says what went wrong, with which thing, and what to do now. Errors cross the wire as
(class name, message): to_wire() and from_wire().
"""


class WeightdError(Exception):
    """Base of every weightd error."""


class RefusedError(WeightdError):
    """The request was understood and will not be done. Nothing changed."""


class UnknownModelError(RefusedError):
    """No model of this name."""


class UnknownVersionError(RefusedError):
    """The model has no such version, or no longer."""


class UnknownTensorError(RefusedError, KeyError):
    """The version has no tensor of this name; the message says what it has."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the repr


class ModelExistsError(RefusedError):
    """A model of this name is held already."""


class BusyError(RefusedError):
    """The model is being loaded, published or unloaded by another request."""


class NotAllowedError(RefusedError):
    """This process may not attach the model."""


class RoleError(RefusedError):
    """The request needs a role that its sender does not have."""


class BadHandleError(RefusedError):
    """The handle is unknown here: mistyped, revoked, for another model, or of an earlier daemon."""


class LimitError(RefusedError):
    """A limit on requests, connections, leases or sizes is reached."""


class InsufficientMemoryError(RefusedError):
    """There is not enough memory; the message names the limit and what is missing."""


class BadFileError(RefusedError):
    """A model or weights file cannot be read as what it says it is."""


class BadManifestError(RefusedError):
    """A manifest breaks a rule; the message says which."""


class NewerFormatError(RefusedError):
    """This was written by a newer weightd, which can read it."""


class UnsealedSegmentError(RefusedError):
    """Memory that could still change or shrink was offered for reading."""


class MismatchError(RefusedError):
    """New weights do not fit the model: a tensor missing, extra, of another dtype or shape."""


class UnsupportedModelError(RefusedError):
    """A model file is valid, but has something that weightd does not translate."""


class CompileError(RefusedError):
    """The engine cannot run this graph."""


class EngineMismatchError(RefusedError):
    """The version was compiled for another engine, engine version or CPU than this process has."""


class TensorsNeededError(EngineMismatchError):
    """As EngineMismatchError, and with the version's original tensors this process could run it."""


class StagingError(RefusedError):
    """The stager died, lied or ran out of its limits."""


class CancelledError(RefusedError):
    """The load or publish was cancelled."""


class IllegalTransitionError(RefusedError):
    """A version is in a state that this event cannot leave."""


class BadRequestError(RefusedError):
    """A message is not one of the protocol's, or an argument is out of its range."""


class BadInputError(RefusedError):
    """An input of predict has the wrong name, dtype or shape."""


class TargetError(RefusedError):
    """This machine does not have the device that a Context names."""


class SourceChangedError(RefusedError):
    """The file that a model was made from is no longer what it was then."""


class PredictError(RefusedError):
    """The engine failed while it ran the graph on these inputs."""


class PoisonedError(PredictError):
    """A switch failed half-way and the session cannot be used any more: attach again."""


class DeadlineError(PredictError):
    """The engine was stopped since it had no answer in the time that it was given."""


class AnswerError(RefusedError):
    """A compiled version does not say what a private session of the same model says."""


class DamagedError(RefusedError):
    """Bytes of this version in memory are not those that were published: nothing is built on it."""


class VerifyError(RefusedError):
    """The check of resident bytes did not come to its end, and says nothing about the rest."""


class SettingsError(RefusedError):
    """A setting, option or configuration file is wrong."""


class AlreadyRunningError(RefusedError):
    """Another daemon serves this runtime folder."""


class UnsupportedKernelError(RefusedError):
    """The running kernel lacks something that weightd cannot do without."""


class StoreError(RefusedError):
    """The fd store, which keeps weights beyond the daemon's end, did not take what it was given."""


class DamagedStateError(RefusedError):
    """What an earlier daemon left of its state, or of a version, is not what it wrote."""


class BrokenPeerError(WeightdError):
    """The other process died or broke the protocol. Its connection is gone."""


class NoDaemonError(BrokenPeerError):
    """No daemon answers in this runtime folder."""


class NoAccessError(NoDaemonError):
    """The sockets in this runtime folder do not let this user in: waiting changes nothing."""


class LostDaemonError(BrokenPeerError):
    """The daemon ended while it had a request; nobody knows whether it was carried out."""


class DaemonTimeoutError(BrokenPeerError):
    """The daemon did not answer in time."""


class UsageError(WeightdError):
    """An object of this process was used in a way it cannot be."""


class ClosedError(UsageError):
    """The object was used after close()."""


class ForkedError(UsageError):
    """An object made before a fork was used in the forked child."""


def to_wire(error: WeightdError) -> tuple[str, str]:
    """The (code, text) under which an error travels."""
    return type(error).__name__, str(error)


def from_wire(code: str, text: str) -> WeightdError:
    """The error that a peer sent; one of a newer peer's own kinds arrives as RefusedError."""
    kind = _BY_NAME.get(code, RefusedError)
    return kind(text)


_BY_NAME: dict[str, type[WeightdError]] = {
    name: value
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, WeightdError)
}
