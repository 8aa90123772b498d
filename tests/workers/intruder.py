"""Tries what only owners and admins may: one JSON command a line in, one JSON answer a line out."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

import weightd
from weightd.errors import WeightdError, to_wire

client = weightd.Client(Path(sys.argv[1]), timeout_s=5)
COMMANDS: dict[str, Callable[[], object]] = {
    "status": client.status,
    "load": lambda: client.load("mine", {"w": np.zeros(4, np.float32)}),
    "load_more": lambda: client.load("more", {"w": np.zeros(4, np.float32)}),
    "publish": lambda: client.publish("mine", {"w": np.ones(4, np.float32)}),
    "unload": lambda: client.unload("mine"),
    "shutdown": client.shutdown,
    "allow": lambda: client.allow("lenet", 1),
    "events": lambda: next(client.events()),
}

for line in sys.stdin:
    try:
        COMMANDS[json.loads(line)["do"]]()
        answer: object = {}
    except WeightdError as error:
        answer = {"error": to_wire(error)}
    print(json.dumps(answer), flush=True)
client.close()
