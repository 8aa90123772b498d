"""Makes a MindIR file whose parameters lie in a file beside it, as those above 1 GB do.

MindSpore is told that everything is too large for one file. Set up as make.py of ../mindir says;
then, from the root of the repository:

    /tmp/mindspore/bin/python tests/data/split/make.py
"""

from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn
from mindspore.train import serialization

FOLDER = Path(__file__).parent


def main() -> None:
    serialization._save_together = lambda *_: False
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    ms.set_seed(1)
    net = nn.SequentialCell(nn.Dense(4, 8), nn.ReLU(), nn.Dense(8, 3))
    net.set_train(False)
    x = ms.Tensor(np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32))
    ms.export(net, x, file_name=str(FOLDER / "net"), file_format="MINDIR")
    for path in (FOLDER / "net_graph.mindir", FOLDER / "net_variables" / "data_0"):
        path.chmod(0o644)
    (FOLDER / "net_variables").chmod(0o755)
    np.savez(FOLDER / "net.npz", x=x.asnumpy(), y=net(x).asnumpy())


if __name__ == "__main__":
    main()
