"""Has a running daemon go by other settings: what has changed is applied, nothing else moves."""

import logging
from typing import Protocol

import msgspec

from weightd.daemon import logs
from weightd.daemon.admission import Admission
from weightd.daemon.attach_plane import AttachPlane
from weightd.daemon.catalog import Catalog
from weightd.daemon.configured import Configured
from weightd.daemon.limits import Requests
from weightd.daemon.model import Action
from weightd.daemon.publisher import Publisher
from weightd.daemon.scrubbing import Scrubbing
from weightd.daemon.settings import Access, Settings, bounds_of

log = logging.getLogger("weightd.daemon")

_AT_START = ("attach_public", "read_in_threads", "control_group")


class House(Protocol):
    """What is asked of the server."""

    def perform(self, actions: list[Action]) -> None: ...


class Reload(msgspec.Struct, frozen=True):
    """The parts that go by settings."""

    house: House
    catalog: Catalog
    publisher: Publisher
    scrubbing: Scrubbing
    requests: Requests
    attach_plane: AttachPlane
    admission: Admission
    configured: Configured

    def apply(self, old: Settings, new: Settings, access: Access) -> None:
        for name in _AT_START:
            if getattr(old, name) != getattr(new, name):
                log.warning("%s has changed, which counts after a restart of the daemon", name)
        logs.set_level(new.log_level)
        self.publisher.apply(new)
        self.scrubbing.apply(new)
        self.requests.per_s = new.requests_per_s_per_uid
        self.attach_plane.hello_deadline_s = new.hello_deadline_s
        freed = self.catalog.apply(bounds_of(new, access))
        self.house.perform(freed)
        self.admission.reconsider()
        self.configured.follow(new.paths)
