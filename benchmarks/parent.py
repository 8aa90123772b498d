"""The benchmark as its worker processes see it: JSON lines in, JSON lines out."""

import json
import select
import sys
from typing import Any


def tell(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def heard() -> dict[str, Any] | None:
    """The next message, waited for; None when the parent has gone or has no more to say."""
    line = sys.stdin.readline()
    return json.loads(line) if line else None


def has_spoken() -> bool:
    """Whether heard() would return at once."""
    return bool(select.select([sys.stdin], [], [], 0)[0])
