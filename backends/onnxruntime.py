"""The door to onnxruntime: the only file of weightd that imports it. What plain.py and prepacked/
make of it is theirs; here its options get names, its sessions types, and its errors ours.
"""

import functools
import os
import platform
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

# It would write to the user's cache folder and start a thread that reports home. Whoever wants that
# sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from xxhash import xxh3_64_hexdigest

from weightd.backends.threads import Threads
from weightd.errors import CompileError, DeadlineError, EngineMismatchError, PredictError
from weightd.weights.arrays import Array

WEIGHTS = "weights"  # the file in which our graphs say that their weights are
MIN_EXTERNAL_NBYTES = 64  # smaller tensors stay inside the graph

_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(
        value
        for value in vars(ort_errors).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ),
)
_BFLOAT16_AND_FLOAT8 = {
    "bfloat16": 16,
    "float8_e4m3fn": 17,
    "float8_e4m3fnuz": 18,
    "float8_e5m2": 19,
    "float8_e5m2fnuz": 20,
}  # onnx.TensorProto.DataType; numpy's own dtypes need no number


class Options:
    """How to build a session. optimise: let it change the graph; off for one that it saved itself.
    threads: for one run."""

    def __init__(self, *, optimise: bool, threads: Threads) -> None:
        level = ort.GraphOptimizationLevel
        self.plain = ort.SessionOptions()
        self.plain.graph_optimization_level = (
            level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
        )
        self.plain.log_severity_level = 4  # errors come as exceptions
        self.plain.intra_op_num_threads = threads.count
        self.threads = threads
        if threads.operators > 1:
            self.plain.execution_mode = ort.ExecutionMode.ORT_PARALLEL
            self.plain.inter_op_num_threads = threads.operators
        if threads.shares_workspace:
            _make_shared_arena()
            self._set("session.use_env_allocators", "1")
        if threads.affinities:
            self._set("session.intra_op_thread_affinities", threads.affinities)
        self.providers: list[str | tuple[str, dict[str, int]]] = ["CPUExecutionProvider"]
        self._lent: list[ort.OrtValue] = []  # the options keep only their addresses

    def on_gpu(self, number: int) -> None:
        """Run what CUDA has kernels for on this device, and the rest on the CPU."""
        self.providers.insert(0, ("CUDAExecutionProvider", {"device_id": number}))

    def without_packing(self) -> None:
        """Leave matrices as they are: no private copy, and slower."""
        self._set("session.disable_prepacking", "1")

    def find_weights_in(self, folder: str) -> None:
        """The folder in which the graph's external data lies."""
        self._set("session.model_external_initializers_file_folder_path", folder)

    def give(self, weights: memoryview) -> None:
        """All external data of the graph. It is copied."""
        if weights.nbytes:
            self.plain.add_external_initializers_from_files_in_memory(
                [WEIGHTS], [weights], [weights.nbytes]
            )

    def lend(self, name: str, array: Array, dtype: str) -> None:
        """Use this memory as a weight, in place of what the graph says. It is not copied: the array
        must live as long as the session."""
        self._lent.append(_ort_value(array, dtype))
        self.plain.add_initializer(name, self._lent[-1])

    def save(self, graph_fd: int, data_fd: int, *, packed: bool) -> None:
        """Write the graph as it is run, and its weights, to these descriptors. packed: the packed
        form of matrices, too, beside the plain one."""
        # It takes paths, and writes: so straight into memfds.
        self.plain.optimized_model_filepath = f"/proc/self/fd/{graph_fd}"
        self._set("session.optimized_model_external_initializers_file_name", str(data_fd))
        self._set(
            "session.optimized_model_external_initializers_min_size_in_bytes",
            str(MIN_EXTERNAL_NBYTES),
        )
        if packed:
            self._set("session.save_external_prepacked_constant_initializers", "1")

    def _set(self, key: str, value: str) -> None:
        self.plain.add_session_config_entry(key, value)


class OrtSession:
    """An onnxruntime session. Building one raises CompileError."""

    def __init__(self, graph: bytes, options: Options) -> None:
        try:
            with options.threads.building():
                self._session = ort.InferenceSession(
                    graph, options.plain, providers=options.providers
                )
        except _ERRORS as error:
            raise CompileError(f"onnxruntime cannot run this model: {error}") from error
        if not options.threads.is_lone:
            _with_threads.add(self)

    def run(self, names: Sequence[str], inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of these names; PredictError when it fails."""
        return self._run(names, inputs, None)

    def run_for(
        self, names: Sequence[str], inputs: Mapping[str, Array], *, limit_s: float
    ) -> dict[str, Array]:
        """run(), ended after `limit_s`: DeadlineError."""
        options = ort.RunOptions()
        timer = threading.Timer(limit_s, setattr, (options, "terminate", True))
        timer.start()
        try:
            return self._run(names, inputs, options)
        except PredictError as error:
            if options.terminate:
                raise DeadlineError(f"it had no answer after {limit_s:g} s") from error
            raise
        finally:
            timer.cancel()
            timer.join()

    def _run(
        self, names: Sequence[str], inputs: Mapping[str, Array], options: ort.RunOptions | None
    ) -> dict[str, Array]:
        try:
            outputs = self._session.run(names, inputs, options)
        except _ERRORS as error:
            raise PredictError(f"onnxruntime failed: {error}") from error
        return dict(zip(names, outputs, strict=True))


_with_threads: "weakref.WeakSet[OrtSession]" = weakref.WeakSet()
_left_behind: list[OrtSession] = []


def _leave_behind() -> None:
    """A forked child has none of the threads of a session, and must never wait for them, as the end
    of a session does."""
    _left_behind.extend(_with_threads)


os.register_at_fork(after_in_child=_leave_behind)


@functools.cache
def _make_shared_arena() -> None:
    """Once in a process."""
    kind, memory = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, ort.OrtMemType.DEFAULT
    ort.create_and_register_allocator(ort.OrtMemoryInfo("Cpu", kind, 0, memory), None)


def has_cuda() -> bool:
    """Whether this onnxruntime can use a CUDA device."""
    return "CUDAExecutionProvider" in ort.get_available_providers()


def stamp() -> dict[str, str]:
    """What a compiled version depends on."""
    return {"onnxruntime": ort.__version__, "cpu": _cpu()}


def check_stamp(made_for: Mapping[str, str]) -> None:
    """EngineMismatchError unless a version was compiled for this onnxruntime and CPU: its layouts
    were chosen for them."""
    for key, here in stamp().items():
        if made_for.get(key) != here:
            raise EngineMismatchError(
                f"this version was compiled for {key} {made_for.get(key)} and this process has "
                f"{here}"
            )


def _ort_value(array: Array, dtype: str) -> ort.OrtValue:
    """An OrtValue over the array's own memory."""
    number = _BFLOAT16_AND_FLOAT8.get(dtype)
    if number is None:
        return ort.OrtValue.ortvalue_from_numpy(array)
    plain = array.view("uint16" if array.itemsize == 2 else "uint8")
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(plain, number)


def _cpu() -> str:
    """A digest of the CPU's instruction sets."""
    with Path("/proc/cpuinfo").open("rb") as file:
        head = file.read(16_384)
    flags = [line for line in head.splitlines() if line.startswith((b"flags", b"Features"))][:1]
    return f"{platform.machine()}-{xxh3_64_hexdigest(b''.join(flags))}"
