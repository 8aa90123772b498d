"""The dtype names of weightd, and the rules that every tensor's name, dtype and shape keep.

Pure Python, so that the daemon can import it; numpy's view of the same names is in arrays.py. The
names are numpy's, and for bfloat16 and float8 those of ml_dtypes. The fault functions return what
is wrong as text, or "": who raises which error is the caller's business.
"""

from collections.abc import Sequence

ITEMSIZE: dict[str, int] = {
    "bool": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "float16": 2,
    "float32": 4,
    "float64": 8,
    "complex64": 8,
    "complex128": 16,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
}

MAX_INT = 2**63 - 1
MAX_TENSORS = 100_000
MAX_NAME_LENGTH = 1024
MAX_DIMS = 64  # numpy's own limit


def nbytes_of(dtype: str, shape: Sequence[int]) -> int:
    """The bytes of a tensor: exact, however large."""
    nbytes = ITEMSIZE[dtype]
    for dim in shape:
        nbytes *= dim
    return nbytes


def name_fault(name: str) -> str:
    """What keeps `name` from being the name of a tensor; "" when nothing does."""
    if not name:
        return "has an empty name"
    if len(name) > MAX_NAME_LENGTH:
        return f"has a name of {len(name)} characters; the limit is {MAX_NAME_LENGTH}"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "has a name that is not valid Unicode"
    return ""


def tensor_fault(dtype: str, shape: Sequence[int]) -> str:
    """What is wrong with a tensor of this dtype and shape; "" when nothing is."""
    if dtype not in ITEMSIZE:
        return f"has the unknown dtype {dtype[:64]!r}"
    if len(shape) > MAX_DIMS:
        return f"has {len(shape)} dimensions; the limit is {MAX_DIMS}"
    if min(shape, default=0) < 0:
        return f"has a negative dimension: {tuple(shape)}"
    # A zero dimension must not hide the others: numpy multiplies what is left and overflows.
    if nbytes_of(dtype, [dim or 1 for dim in shape]) > MAX_INT:
        return f"has dimensions that overflow 64 bits: {tuple(shape)}"
    return ""
