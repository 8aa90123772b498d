"""What a worker process is told when it starts."""

from typing import Literal

import msgspec

Kind = Literal["private", "weightd"]


class Job(msgspec.Struct, frozen=True):
    """kind: an onnxruntime session of model_file, or an attachment of the model `name`, which runs
    by `engine`. inputs: a file with the inputs. answers: files with the bytes of all outputs,
    one for each version that may answer. times: where to write how long each prediction took.
    """

    kind: Kind
    model_file: str
    runtime_dir: str
    name: str
    engine: str
    inputs: str
    answers: tuple[str, ...] = ()
    times: str = ""

    def words(self) -> str:
        """As one argument of a command."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def of(cls, words: str) -> "Job":
        return msgspec.json.decode(words, type=cls)
