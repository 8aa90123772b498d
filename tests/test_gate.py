"""The gate: many share it, one has it alone, and who waits to be alone gets in."""

import threading
from collections.abc import Callable

import pytest

from tests.helpers import wait_until
from weightd.backends.gate import Gate


class Step(threading.Thread):
    """Does one thing in a thread of its own. is_waiting: it began and is not done."""

    def __init__(self, do: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._do = do
        self.is_done = False
        self.start()

    def run(self) -> None:
        self._do()
        self.is_done = True


def waiters(gate: Gate) -> int:
    """How many threads wait at the gate."""
    with gate._changed:
        return len(gate._changed._waiters)  # type: ignore[attr-defined]


def test_those_who_share_do_not_wait_for_each_other() -> None:
    gate = Gate()
    for _ in range(3):
        gate.enter()  # would wait for ever
    for _ in range(3):
        gate.leave()


def test_who_wants_to_be_alone_waits_for_all_inside() -> None:
    gate = Gate()
    gate.enter()
    gate.enter()
    alone = Step(gate.close)
    wait_until(lambda: waiters(gate) == 1)
    gate.leave()
    wait_until(lambda: waiters(gate) == 1)  # it looked, and waits again
    assert not alone.is_done
    gate.leave()
    alone.join(10)
    assert alone.is_done
    gate.open()


def test_nobody_waits_for_himself() -> None:
    gate = Gate()
    gate.enter()
    gate.close()  # a fork in a signal handler, in the middle of a prediction
    gate.enter()  # a prediction in one
    gate.leave()
    gate.open()
    gate.leave()
    gate.close()


def test_nobody_enters_past_one_who_waits_to_be_alone() -> None:
    gate = Gate()
    gate.enter()
    alone = Step(gate.close)
    wait_until(lambda: waiters(gate) == 1)
    late = [Step(gate.enter) for _ in range(3)]
    wait_until(lambda: waiters(gate) == 4)
    gate.leave()
    alone.join(10)
    assert alone.is_done
    assert not any(step.is_done for step in late)
    gate.open()
    for step in late:
        step.join(10)
        assert step.is_done


def test_nobody_enters_while_one_is_alone_and_all_do_afterwards() -> None:
    gate = Gate()
    with gate.closed():
        late = [Step(gate.enter) for _ in range(3)]
        wait_until(lambda: waiters(gate) == 3)
        assert not any(step.is_done for step in late)
    for step in late:
        step.join(10)
        assert step.is_done


def test_two_who_want_to_be_alone_are_so_one_after_the_other() -> None:
    gate = Gate()
    gate.close()
    second = Step(gate.close)
    wait_until(lambda: waiters(gate) == 1)
    assert not second.is_done
    gate.open()
    second.join(10)
    assert second.is_done
    third = Step(gate.enter)
    wait_until(lambda: waiters(gate) == 1)
    gate.open()
    third.join(10)
    assert third.is_done


def test_an_error_while_alone_opens_the_gate() -> None:
    gate = Gate()
    with pytest.raises(KeyError), gate.closed():
        raise KeyError
    gate.enter()
