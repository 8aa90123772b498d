"""Makes the checkpoints of this folder, by a real MindSpore.

Only needed to add one; the tests use the files and need no MindSpore. Set up as make.py of
../mindir says; then, from the root of the repository:

    /tmp/mindspore/bin/python tests/data/ckpt/make.py
"""

from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

FOLDER = Path(__file__).parent
DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)


def main() -> None:
    arrays = {name: (np.arange(6).reshape(2, 3) - 2).astype(name) for name in DTYPES}
    tensors = {name: Tensor(array) for name, array in arrays.items()}
    tensors["bfloat16"] = Tensor(arrays["float32"], ms.bfloat16)
    tensors["number"] = Tensor(2.5, ms.float32)
    tensors["one"] = Tensor(np.array([7], np.int32))
    save("dtypes", tensors)
    save("crc", {"w": Tensor(arrays["float32"]), "b": Tensor(arrays["int32"])}, crc_check=True)
    save("texts", {"w": Tensor(arrays["float32"])}, append_dict={"epoch": 3, "net": "LeNet-5é"})
    save("encrypted", {"w": Tensor(arrays["float32"])}, enc_key=b"0123456789ABCDEF")
    np.savez(FOLDER / "dtypes.npz", allow_pickle=False, **arrays)


def save(name: str, tensors: dict[str, Any], **options: Any) -> None:
    path = FOLDER / f"{name}.ckpt"
    path.unlink(missing_ok=True)
    listed = [{"name": key, "data": Parameter(value, name=key)} for key, value in tensors.items()]
    ms.save_checkpoint(listed, str(path), **options)
    path.chmod(0o644)  # MindSpore makes it readable for its owner only


if __name__ == "__main__":
    main()
