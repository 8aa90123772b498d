"""`weightd demo`: what the README promises, shown with real processes and measured here.

main.py            the order of things, and the way out
stage.py           the temp folder, the daemon, the children: what must not be left behind
interruption.py    Ctrl-C and SIGTERM become one exception, at a moment that suits
child.py           the first thing that runs in a child: it dies with the demo
process.py         a child seen from the demo: JSON lines, and its end
screen.py          what people see;  report.py  what the demo found
digits.py          LeNet-5, its two sets of weights, its images
lenet.py           part 1: three workers predict while the weights are replaced under them
lenet_worker.py    one of them, checking each answer bit for bit
mlp.py             a generated model of 400 MB
memory.py          part 2: four private copies, then one shared
memory_worker.py   one of either
onnxruntime.py     the private sessions to compare with
"""


def run(*, as_json: bool = False, with_memory: bool = True) -> int:
    """Run the demo in this process's main thread; returns its exit status.

    0: all as promised. 1: something was not, or a step failed. 130, 143: ended by SIGINT, SIGTERM.
    as_json: one JSON document on standard output, progress on standard error. with_memory: also
    part 2, which needs 2 GB of memory. No process, socket or file is left, however it ends.
    """
    from weightd.demo.main import run_demo

    return run_demo(as_json=as_json, with_memory=with_memory)
