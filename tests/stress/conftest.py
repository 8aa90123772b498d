"""What a run of `weightd stress` stands on, for tests of its parts."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from weightd.demo.interruption import Signals
from weightd.stress.stage import Stage


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A keeper and its daemon, as a run starts them."""
    with Signals() as signals, ExitStack() as stack:
        yield Stage(stack, signals)
