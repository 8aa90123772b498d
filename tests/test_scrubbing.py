"""How scrubbers run: their rate, their end, and what becomes of a round when one dies."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.scrub import FAST, KIB, House, plain, running_house
from weightd.daemon.check import Check, Subject
from weightd.daemon.settings import Settings
from weightd.errors import BusyError, CancelledError, VerifyError, WeightdError
from weightd.ipc import protocol

if TYPE_CHECKING:
    from weightd.ipc.scrub import Flaw


@pytest.fixture
def settings() -> Settings:
    return FAST


@pytest.fixture
def house(settings: Settings) -> Iterator[House]:
    with running_house(settings) as house:
        yield house


SLOW = Settings(scrub_mb_per_s=0.5, scrub_pause_s=0.001)


@pytest.mark.parametrize("settings", [SLOW])
def test_a_round_keeps_to_its_rate_and_runs_after_everybody_else(house: House) -> None:
    house.hold(plain(count=4, nbytes=64 * KIB))
    house.scrubbing.start()
    house.run_until(lambda: house.scrubber)
    began_s = time.monotonic()
    pid = house.scrubber
    house.run_until(lambda: os.sched_getscheduler(pid) == os.SCHED_IDLE)
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    house.run_until(lambda: house.scrubbing.scrubbed_nbytes == 256 * KIB)
    assert time.monotonic() - began_s > 0.9 * 256 * KIB / 500_000


@pytest.mark.parametrize("settings", [Settings(scrub_mb_per_s=0, scrub_pause_s=0.001)])
def test_a_rate_of_0_means_never(house: House) -> None:
    house.hold(plain())
    house.scrubbing.start()
    assert not house.loop._timers
    assert house.verify()


@pytest.mark.parametrize("settings", [SLOW])
def test_a_freed_version_leaves_a_scrubber_at_once_and_the_round_goes_on(house: House) -> None:
    house.hold(plain("a", count=1, nbytes=4 * KIB, wrong=(0,)))
    house.hold(plain("b", count=40))
    house.hold(plain("c", count=1, nbytes=4 * KIB, wrong=(0,)))
    house.scrubbing.start()
    house.run_until(lambda: house.events)
    pid = house.scrubber
    house.free(house.catalog.unload("b"))
    house.run_until(lambda: house.scrubber != pid)
    house.run_until(lambda: len(house.events) == 2)
    assert [event[1] for event in house.events] == ["a", "c"]


@pytest.mark.parametrize("settings", [SLOW])
def test_a_killed_scrubber_is_no_alarm_and_the_next_one_takes_the_rest(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.hold(plain("a", count=1, nbytes=256 * KIB))
    house.hold(plain("b", count=1, nbytes=128 * KIB, wrong=(0,)))
    house.scrubbing.start()
    house.run_until(lambda: house.scrubbing.scrubbed_nbytes >= 256 * KIB)
    os.kill(house.scrubber, signal.SIGKILL)
    house.run_until(lambda: not house.scrubber)
    assert not house.events
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "the scrubber was ended by signal 9" in warning
    house.run_until(lambda: house.scrubbing.scrubbed_nbytes >= 384 * KIB)
    assert house.scrubbing.scrubbed_nbytes == 384 * KIB  # `a` was not read again
    assert [event[1] for event in house.events] == ["b"]


def test_a_scrubber_goes_on_within_a_version_where_the_last_one_stopped(house: House) -> None:
    house.hold(plain(count=4, wrong=(0, 3)))
    subject = Subject("m", 1, house.catalog.model("m").live.uid, 1, pieces=2)
    flaws: list[str] = []
    ends: list[WeightdError | None] = []
    check = Check(
        house.loop,
        house.vault,
        [subject],
        nbytes_per_s=None,
        rest_s=0,
        when_flaw=lambda _, flaw: flaws.append(flaw.what),
        when_done=ends.append,
    )
    house.run_until(lambda: ends)
    assert ends == [None]
    assert flaws == ["tensor 't3'"]
    assert (subject.pieces, subject.nbytes) == (4, 4 * 64 * KIB)
    assert check.read_nbytes == 2 * 64 * KIB


def test_one_verify_at_a_time(house: House) -> None:
    house.hold(plain())
    house.scrubbing.verify(None, lambda _: None, house.answers.append)
    with pytest.raises(BusyError):
        house.scrubbing.verify("m", lambda _: None, house.answers.append)
    house.run_until(lambda: house.answers)
    assert house.verify("m")


def test_a_version_that_is_freed_while_it_is_verified_is_said_to_be(house: House) -> None:
    house.hold(plain("a", count=8, nbytes=4096 * KIB))
    house.hold(plain("b"))
    house.scrubbing.verify(None, lambda _: None, house.answers.append)
    house.free(house.catalog.unload("a"))
    house.run_until(lambda: house.answers)
    [answer] = house.answers
    assert isinstance(answer, protocol.Verified)
    assert [check.verdict for check in answer.versions] == ["freed", "sound"]


def test_whoever_waits_hears_that_the_daemon_stops(house: House) -> None:
    house.hold(plain())
    house.scrubbing.verify(None, lambda _: None, house.answers.append)
    house.scrubbing.stop()
    house.run_until(lambda: house.answers)
    assert isinstance(house.answers[0], CancelledError)


NONSENSE = {
    "no message": ("os.write(fd, b'hello')", "reported nonsense"),
    "another's": ("os.write(fd, protocol.encode(protocol.Done()))", "reported nonsense"),
    "of nobody": (
        "os.write(fd, protocol.encode(scrub.Checked(7, 0, 0, 0.0, 0)))",
        "reported nonsense",
    ),
    "nothing": ("pass", "ended with status 0 before all was compared"),
    "a traceback": ("1 / 0", "it said: ZeroDivisionError"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_a_scrubber_that_makes_no_sense_marks_nothing(house: House, case: str) -> None:
    program, text = NONSENSE[case]
    house.hold(plain())
    version = house.catalog.model("m").live
    begin = "import os, sys; from weightd.ipc import protocol, scrub; fd = int(sys.argv[-1]);"
    ends: list[WeightdError | None] = []
    flaws: list[Flaw] = []
    Check(
        house.loop,
        house.vault,
        [Subject("m", 1, version.uid, 1)],
        nbytes_per_s=None,
        rest_s=0,
        when_flaw=lambda _, flaw: flaws.append(flaw),
        when_done=ends.append,
        scrubber=[sys.executable, "-c", begin + program],
    )
    house.run_until(lambda: ends)
    assert isinstance(ends[0], VerifyError)
    assert text in str(ends[0])
    assert not flaws
