"""This very process, attached to a model: as any worker, or let in by whoever may do that."""

from pathlib import Path
from typing import TYPE_CHECKING

from weightd.cli.options import connect
from weightd.errors import NoAccessError, NotAllowedError

if TYPE_CHECKING:
    from weightd.backends.attachment import Attachment


def attached(name: str, runtime_dir: Path | None, *, threads: int = 1) -> "Attachment":
    """As weightd.attach(). Where that is not allowed and the control socket lets this user in, this
    process is allowed first. The caller closes it."""
    import weightd

    try:
        return weightd.attach(name, runtime_dir=runtime_dir, threads=threads)
    except NotAllowedError as error:
        handle = _own_handle(name, runtime_dir, error)
    return weightd.attach(name, handle, runtime_dir=runtime_dir, threads=threads)


def _own_handle(name: str, runtime_dir: Path | None, refusal: NotAllowedError) -> int:
    """Raises the refusal where this user may not ask for a handle."""
    with connect(runtime_dir) as client:
        try:
            return client.allow(name, client.current_pid())
        except NoAccessError:
            raise refusal from None
