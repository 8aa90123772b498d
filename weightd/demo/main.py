"""The way in and the way out: signals first, everything else within."""

import os

from weightd.demo.interruption import Interrupted, Signals

_SIGNALLED = 128


def run_demo(*, as_json: bool, with_memory: bool) -> int:
    # onnxruntime 1.31 else leaves $TMPDIR/.ses behind, and a data base in ~/.cache to be sent.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        with Signals() as signals:
            # Only now: these imports take half a second, in which Ctrl-C is a traceback otherwise.
            from weightd.demo.story import tell

            return tell(signals, as_json=as_json, with_memory=with_memory)
    except Interrupted as interrupted:
        return _SIGNALLED + interrupted.number
