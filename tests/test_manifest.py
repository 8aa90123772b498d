"""manifest.py: what is refused, what comes back, what fits."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from xxhash import xxh3_128_digest

from weightd.errors import BadManifestError, MismatchError, UnknownTensorError
from weightd.ipc import protocol
from weightd.weights.manifest import (
    HEADER_NBYTES,
    MAX_MANIFEST_NBYTES,
    Blob,
    Manifest,
    Parameter,
    Port,
    TensorEntry,
    pack_header,
    read_manifest,
)

SIZE = 65536
WEIGHT = TensorEntry("w", "float32", (4, 4), 0, 4096, 64, b"w" * 16)
BIAS = TensorEntry("b", "float32", (4,), 0, 4160, 16, b"b" * 16)
X = Port("x", "float32", ("batch", 4))
Y = Port("y", "float32", (None, 4))


def entry(**changes: Any) -> TensorEntry:
    return msgspec.structs.replace(WEIGHT, **changes)


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "model": "lenet",
        "version": 3,
        "layout": "tensors",
        "stamp": {"engine": "plain"},
        "segments": (SIZE, 8192),
        "tensors": (WEIGHT, BIAS),
        "source_graph": Blob(0, 8192, 100),
        "inputs": (X,),
        "outputs": (Y,),
        "parameters": (Parameter("w", "float32", (4, 4)), Parameter("b", "float32", (4,))),
        "constants": ("b",),
        "source": "lenet.onnx (onnx)",
    }
    return Manifest(**(fields | changes))


def test_a_manifest_comes_back_as_it_was() -> None:
    there = manifest(layout="compiled", compiled=(entry(name="w_packed"),), graph=Blob(1, 0, 10))
    assert Manifest.decode(there.encode()) == there


def test_an_empty_manifest_is_legal() -> None:
    least = Manifest(model="m", version=1, layout="tensors", segments=(4096,), tensors=())
    assert Manifest.decode(least.encode()) == least


ABUSES: dict[str, tuple[dict[str, Any], str]] = {
    "overlap": ({"tensors": (WEIGHT, entry(name="v", digest=b"v" * 16))}, "overlap in segment 0"),
    "partial overlap": (
        {"tensors": (WEIGHT, entry(name="v", shape=(32, 4), offset=4032 + 128, nbytes=512), BIAS)},
        "overlap",
    ),
    "alias in one list": ({"tensors": (WEIGHT, entry(name="v"))}, "overlap"),
    "alias of another digest": (
        {"layout": "compiled", "compiled": (entry(name="v", digest=b"v" * 16),)},
        "overlap",
    ),
    "overlap across lists": (
        {"layout": "compiled", "compiled": (entry(name="v", shape=(8, 4), nbytes=128),)},
        "overlap",
    ),
    "graph over a tensor": ({"graph": Blob(0, 4100, 10)}, "the graph overlap"),
    "two graphs in one place": ({"graph": Blob(0, 8192, 100)}, "overlap"),
    "out of bounds": ({"tensors": (entry(offset=SIZE),)}, "past the end of segment 0"),
    "in another's bounds": ({"tensors": (entry(segment=1, offset=8192),)}, "segment 1"),
    "unknown segment": ({"tensors": (entry(segment=2),)}, "segment 2 of 2"),
    "negative segment": ({"tensors": (entry(segment=-1),)}, "segment -1 of 2"),
    "negative offset": ({"tensors": (entry(offset=-64),)}, "negative place"),
    "overflowing offset": ({"tensors": (entry(offset=2**63 - 64),)}, "overflows 64 bits"),
    "negative dimension": ({"tensors": (entry(shape=(-4, -4)),)}, "negative dimension"),
    "overflowing dimensions": ({"tensors": (entry(shape=(2**40, 2**40)),)}, "overflow 64 bits"),
    "hidden overflow": ({"tensors": (entry(shape=(0, 2**40, 2**40), nbytes=0),)}, "overflow"),
    "duplicate name": ({"tensors": (WEIGHT, entry(offset=8448))}, "tensor 'w' occurs twice"),
    "empty name": ({"tensors": (entry(name=""),)}, "empty name"),
    "long name": ({"tensors": (entry(name="n" * 1025),)}, "1025 characters"),
    "name of no text": ({"tensors": (entry(name="\udc80"),)}, "not valid Unicode"),
    "wrong nbytes": ({"tensors": (entry(nbytes=60),)}, "claims 60 bytes"),
    "unknown dtype": ({"tensors": (entry(dtype="float31"),)}, "unknown dtype 'float31'"),
    "many dimensions": ({"tensors": (entry(shape=(1,) * 65),)}, "65 dimensions"),
    "short digest": ({"tensors": (entry(digest=b"short"),)}, "digest of 5 bytes"),
    "unaligned": ({"tensors": (entry(offset=4100),)}, "not aligned to 64: offset 4100"),
    "over the header": ({"tensors": (entry(offset=4032),)}, "overlaps the header"),
    "blob over the header": ({"source_graph": Blob(0, 0, 1)}, "overlaps the header"),
    "blob out of bounds": ({"graph": Blob(0, SIZE, 1)}, "the graph ends at byte 65537"),
    "blob with a short digest": ({"graph": Blob(0, 8192, 10, b"x" * 15)}, "a digest of 15 bytes"),
    "negative blob": ({"graph": Blob(0, 8192, -1)}, "negative place"),
    "overflowing blob": ({"graph": Blob(0, 8192, 2**63)}, "overflows"),
    "unknown layout": ({"layout": "zip"}, "unknown layout 'zip'"),
    "compiled in layout tensors": ({"compiled": (entry(name="v"),)}, "no compiled tensors"),
    "no segments": ({"segments": ()}, "names no segment"),
    "many segments": ({"segments": (SIZE,) * 17}, "17 segments"),
    "negative size": ({"segments": (SIZE, -1)}, "impossible size"),
    "overflowing size": ({"segments": (2**63,)}, "impossible size"),
    "version 0": ({"version": 0}, "version 0 is out of range"),
    "no model": ({"model": ""}, "model has an empty name"),
    "bad port": ({"inputs": (Port("x", "string", (1,)),)}, "input 'x' has the unknown dtype"),
    "duplicate port": ({"outputs": (Y, Y)}, "output 'y' occurs twice"),
    "port symbol of no text": ({"inputs": (Port("x", "int8", ("\ud800",)),)}, "not valid Unicode"),
    "duplicate parameter": ({"parameters": (Parameter("b", "int8", ()),) * 2}, "occurs twice"),
    "bad parameter": ({"parameters": (Parameter("b", "int8", (-1,)),)}, "parameter 'b' has a neg"),
    "short digest of a parameter": (
        {"parameters": (Parameter("b", "int8", (), b"short"),)},
        "parameter 'b' has a digest of 5 bytes",
    ),
    "update of nothing known": ({"updated": ("v",)}, "updated tensor 'v' is not one of the param"),
    "update that is nowhere": (
        {"parameters": (Parameter("zz", "int8", ()),), "updated": ("zz",), "constants": ()},
        "updated tensor 'zz' is not among the tensors",
    ),
    "unknown constant": ({"constants": ("c",)}, "constant 'c' is not one of the parameters"),
    "reference for no port": (
        {"reference_inputs": (entry(name="z", segment=1, offset=0),)},
        "reference input 'z' is float32; the port is not a port's name",
    ),
    "reference of an output for an input": (
        {"reference_inputs": (entry(name="y", segment=1, offset=0),)},
        "reference input 'y'",
    ),
    "reference of another dtype": (
        {"reference_outputs": (entry(name="y", dtype="int32", segment=1, offset=0),)},
        "reference output 'y' is int32; the port is float32",
    ),
    "reference twice": ({"reference_outputs": (entry(name="y", segment=1),) * 2}, "occurs twice"),
    "reference out of bounds": (
        {"reference_outputs": (entry(name="y", offset=SIZE),)},
        "reference output 'y' ends at byte",
    ),
    "reference over a tensor": (
        {"reference_inputs": (entry(name="x", digest=b"x" * 16),)},
        "overlap in segment 0",
    ),
    "stamp of no text": ({"stamp": {"a": "\ud800"}}, "not valid Unicode"),
}


@pytest.mark.parametrize("abuse", ABUSES)
def test_a_manifest_that_breaks_a_rule_is_refused_and_says_which(abuse: str) -> None:
    changes, message = ABUSES[abuse]
    with pytest.raises(BadManifestError, match=message):
        manifest(**changes)


def test_too_many_tensors_are_refused() -> None:
    many = tuple(Parameter(str(number), "int8", ()) for number in range(100_001))
    with pytest.raises(BadManifestError, match="100001 entries of kind parameter"):
        manifest(parameters=many, constants=())


def test_the_rules_hold_for_what_is_decoded() -> None:
    plain = msgspec.to_builtins(manifest(), builtin_types=(bytes,))
    plain["tensors"][0]["offset"] = 4100
    with pytest.raises(BadManifestError, match="not aligned"):
        Manifest.decode(protocol.pack(plain))


@pytest.mark.parametrize(
    "change",
    [{"extra": 1}, {"layout": "zip"}, {"tensors": 7}, {"version": "1"}, {"segments": [1.0]}],
    ids=str,
)
def test_a_field_of_the_wrong_type_is_refused(change: dict[str, Any]) -> None:
    plain = msgspec.to_builtins(manifest(), builtin_types=(bytes,)) | change
    with pytest.raises(BadManifestError, match="cannot be decoded"):
        Manifest.decode(protocol.pack(plain))


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x91" * 5000, b"\xdf\xff\xff\xff\xff"])
def test_bytes_that_are_no_manifest_are_refused(raw: bytes) -> None:
    with pytest.raises(BadManifestError, match="cannot be decoded"):
        Manifest.decode(raw)


def test_a_manifest_that_is_too_large_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(BadManifestError, match="too large"):
        Manifest.decode(bytes(MAX_MANIFEST_NBYTES + 1))


def test_zero_size_tensors_may_lie_anywhere_together() -> None:
    empty = entry(name="e", shape=(0, 4), nbytes=0)
    assert manifest(tensors=(WEIGHT, empty, entry(name="f", shape=(0,), nbytes=0)))


def test_a_tensor_may_end_where_its_segment_ends() -> None:
    assert manifest(tensors=(entry(offset=SIZE - 64),)).tensors[0].offset == SIZE - 64


def test_the_compiled_layout_may_use_a_tensor_as_it_is() -> None:
    assert manifest(layout="compiled", compiled=(entry(name="w_0"),)).compiled


def test_a_reference_answer_is_by_the_ports_names_and_of_any_shape() -> None:
    answer = manifest(
        reference_inputs=(entry(name="x", segment=1, offset=0),),
        reference_outputs=(entry(name="y", shape=(2, 8), segment=1, offset=64),),
    )
    assert Manifest.decode(answer.encode()) == answer


def test_equal_offsets_in_two_segments_are_apart() -> None:
    assert manifest(tensors=(WEIGHT, entry(name="v", segment=1)))


# --- in a segment -------------------------------------------------------------------------


def segment(raw: bytes, *, offset: int = 16384, nbytes: int = SIZE) -> bytearray:
    data = bytearray(nbytes)
    data[:HEADER_NBYTES] = pack_header(offset, raw)
    data[offset : offset + len(raw)] = raw
    return data


def test_a_manifest_is_found_in_its_segment() -> None:
    assert read_manifest(memoryview(segment(manifest().encode()))) == manifest()


DAMAGE: dict[str, tuple[Callable[[bytearray], None], str]] = {
    "magic": (lambda data: data.__setitem__(0, 0), "magic"),
    "format": (lambda data: data.__setitem__(8, 0), "segment format 0.0"),
    "zero": (lambda data: data.__setitem__(12, 1), "segment format 1.1"),
    "offset": (lambda data: data.__setitem__(23, 0xFF), "out of bounds"),
    "offset in header": (lambda data: data.__setitem__(slice(16, 24), bytes(8)), "out of bounds"),
    "size": (lambda data: data.__setitem__(31, 0xFF), "too large"),
    "longer": (lambda data: data.__setitem__(26, 0xF0), "out of bounds"),
    "digest": (lambda data: data.__setitem__(32, data[32] ^ 1), "digest is wrong"),
    "manifest": (lambda data: data.__setitem__(16390, data[16390] ^ 1), "digest is wrong"),
    "cut off": (lambda data: data.__delitem__(slice(100, None)), "too short"),
    "shorter": (lambda data: data.__delitem__(slice(SIZE - 1, None)), "this one has 65535"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_segment_is_refused_and_says_where(damage: str) -> None:
    apply, message = DAMAGE[damage]
    data = segment(manifest().encode())
    apply(data)
    with pytest.raises(BadManifestError, match=message):
        read_manifest(memoryview(data))


def test_a_right_digest_over_nonsense_is_refused() -> None:
    with pytest.raises(BadManifestError, match="cannot be decoded"):
        read_manifest(memoryview(segment(b"nonsense")))


def test_the_header_holds_the_manifests_digest() -> None:
    assert pack_header(4096, b"raw")[32:48] == xxh3_128_digest(b"raw")


# --- finding and fitting ------------------------------------------------------------------


def test_a_tensor_is_found_by_its_name() -> None:
    assert manifest().find("b") == BIAS


def test_an_unknown_tensor_names_close_ones() -> None:
    with pytest.raises(UnknownTensorError, match=r"no tensor 'bb' of model 'lenet'.*close: b"):
        manifest().find("bb")


def test_a_tensor_that_the_optimiser_took_says_how_to_keep_it() -> None:
    compiled = manifest(layout="compiled", tensors=(), compiled=(entry(name="w_0"),))
    with pytest.raises(UnknownTensorError, match=r"renamed or packed .*--keep-tensors"):
        compiled.find("w")
    with pytest.raises(UnknownTensorError, match="no tensor 'zzz'"):
        compiled.find("zzz")


def test_new_weights_of_the_same_parameters_fit() -> None:
    manifest(version=4).check_fits(manifest())


def test_constants_may_be_left_out() -> None:
    manifest(parameters=(Parameter("w", "float32", (4, 4)),), constants=()).check_fits(manifest())


W = Parameter("w", "float32", (4, 4))
MISFITS: dict[str, tuple[tuple[Parameter, ...], str]] = {
    "missing": ((), "missing: w"),
    "extra": ((W, Parameter("v", "int8", ())), "not in the model: v"),
    "other dtype": (
        (Parameter("w", "float16", (4, 4)),),
        r"other dtype: w \(new: float16, model: float32\)",
    ),
    "other shape": (
        (Parameter("w", "float32", (4,)),),
        r"other shape: w \(new: \(4,\), model: \(4, 4\)\)",
    ),
    "many": (
        (W, *(Parameter(f"v{number}", "int8", ()) for number in range(9))),
        "v0, v1, v2, v3, v4 and 4 more",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_weights_that_do_not_fit_are_refused_by_name(misfit: str) -> None:
    parameters, message = MISFITS[misfit]
    with pytest.raises(MismatchError, match=message):
        manifest(parameters=parameters, constants=()).check_fits(manifest())


@pytest.mark.parametrize("ports", ["inputs", "outputs"])
def test_a_graph_with_other_ports_does_not_fit(ports: str) -> None:
    other = manifest(**{ports: (Port("z", "float32", (None, 4)),)})
    with pytest.raises(MismatchError, match=rf"its {ports} are z float32\[\?, 4\], the model's"):
        other.check_fits(manifest())


def test_a_symbol_may_have_another_name() -> None:
    manifest(inputs=(Port("x", "float32", ("n", 4)),)).check_fits(manifest())
