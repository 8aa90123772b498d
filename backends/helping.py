"""A worker that cannot use what was compiled asks the daemon for a version that it can use."""

import logging
import time

from weightd.errors import NotAllowedError, TensorsNeededError
from weightd.ipc import protocol
from weightd.ipc.lease import Grant, Lease

log = logging.getLogger("weightd.worker")


def helped(lease: Lease, number: int, why: TensorsNeededError, deadline_s: float) -> Grant:
    """Say that version `number` is of no use, and wait for one that is; until `deadline_s` on the
    monotonic clock. TensorsNeededError when there will be none, NotAllowedError when there will be
    no version at all."""
    reason = str(why.__cause__)  # the text alone: a kept log record would keep the traceback
    log.warning("the daemon is asked for the original tensors: %s", reason)
    lease.unfit(number, reason)
    while (left_s := deadline_s - time.monotonic()) > 0:
        match lease.notice(timeout_s=left_s):
            case protocol.Notice():
                return lease.pull()
            case protocol.Unhelped(reason):
                raise TensorsNeededError(f"{why} (the daemon: {reason})") from why
            case protocol.Revocation(reason) | protocol.Goodbye(reason):
                raise NotAllowedError(reason) from why
    raise why
