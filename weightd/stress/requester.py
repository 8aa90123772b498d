"""`python -m weightd.stress.requester RUNTIME_DIR MODEL`: a client that does as it is told.

In: {"publish": FILE} or {"rollback": NUMBER or null}. Out: {"version": N} or {"error": [code,
text]}. It may be killed at any moment.
"""

import json
import sys
from typing import Any

from weightd.client import Client
from weightd.errors import WeightdError, to_wire

_SILENCE_S = 3.0


def main(runtime_dir: str, name: str) -> None:
    with Client(runtime_dir, timeout_s=_SILENCE_S) as client:
        for line in sys.stdin:
            sys.stdout.write(json.dumps(answer(client, name, json.loads(line))) + "\n")
            sys.stdout.flush()


def answer(client: Client, name: str, request: dict[str, Any]) -> dict[str, Any]:
    try:
        if "publish" in request:
            return {"version": client.publish(name, request["publish"])}
        return {"version": client.rollback(name, request["rollback"])}
    except WeightdError as error:
        return {"error": to_wire(error)}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
