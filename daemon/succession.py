"""What a daemon has from the one before it, and leaves to the next: incarnation, models, versions,
files, and whom they let in.

Whatever changes is written down before anybody hears of it, so that a successor of a daemon that
dies in between finds what others may know.
"""

import logging
import os
import time

from weightd.daemon.adoption import STATE, Adopted, Stored, adopt, names_in
from weightd.daemon.counters import Counters
from weightd.daemon.damage import distrust_marked
from weightd.daemon.estate import Estate
from weightd.daemon.model import Aside
from weightd.daemon.state import captured, encode
from weightd.errors import LimitError
from weightd.ipc.slots import Slots
from weightd.ipc.words import counted

log = logging.getLogger("weightd.daemon")


class Succession:
    """Owns the slots that the state is written to, if there is an fd store: without one nobody
    would read them."""

    def __init__(self, estate: Estate, stored: Stored, counters: Counters) -> None:
        """Take over what is stored, which is owned from here on."""
        began_s = time.monotonic()
        adopted = adopt(stored)
        self.incarnation = adopted.incarnation or os.urandom(8).hex()
        self._estate = estate
        self._revision = 0
        self._aside = adopted.aside
        self._slots = self._slots_of(adopted)
        self._take(adopted)
        self.commit()
        counters.adopted_versions = len(adopted.versions)
        counters.refused_adoptions = len(adopted.refused) + len(adopted.aside)
        self.account = (
            f"incarnation {self.incarnation}, adopted {counted(len(adopted.models), 'model')} "
            f"with {counted(len(adopted.versions), 'version')}, "
            f"refused {counted(counters.refused_adoptions, 'thing')}"
        )
        if stored:
            counters.adoption_s = time.monotonic() - began_s

    def check_room(self) -> None:
        """LimitError when the state is to grow no more. One request adds far less than what is left
        then."""
        if self._slots is not None and self._slots.is_nearly_full:
            raise LimitError(
                "what a successor must know has nearly outgrown the memory for it: whitelists are "
                "too long, or rules too many; let groups or units in instead of processes "
                "(`weightd allow --group`), revoke what is not needed, or unload models"
            )

    def commit(self) -> None:
        """Have the successor find things as they are now.

        A failure (no memory) ends the daemon, which has told nobody yet: its successor goes on from
        what was written before. That the state fits is check_room()'s care.
        """
        estate = self._estate
        revision = estate.catalog.revision
        if self._slots is not None and revision != self._revision:
            aside = tuple(self._aside[name] for name in estate.catalog.aside)
            state = captured(self.incarnation, estate.catalog, estate.vault, estate.sources, aside)
            self._slots.commit(encode(state))
        self._revision = revision

    def close(self) -> None:
        """Let this process's descriptor go; what is written stays in the fd store."""
        if self._slots is not None:
            self._slots.close()

    def _slots_of(self, adopted: Adopted) -> Slots | None:
        store = self._estate.store
        if adopted.slots is not None or not store.kind:
            return adopted.slots
        store.drop([STATE])
        slots = Slots.new("weightd.state")
        store.park({STATE: slots.fileno()})
        return slots

    def _take(self, adopted: Adopted) -> None:
        estate = self._estate
        aside = [
            Aside(name, kept.owner_uid, adopted.reasons[name], names_in(kept))
            for name, kept in adopted.aside.items()
        ]
        estate.catalog.adopt(adopted.models, adopted.last_uid, aside, adopted.done)
        for uid, filled in adopted.versions.items():
            estate.vault.put(uid, filled)
        distrust_marked(estate.catalog, estate.vault)
        for uid, offered in adopted.sources.items():
            estate.sources.keep(uid, offered)
        for process in adopted.processes:
            estate.processes.watch(process)
        estate.store.drop(adopted.unused)
        for refused in adopted.refused:
            log.error("not adopted: %s", refused)
        for each in aside:
            log.error("not adopted now: %s", each)
        for model in adopted.models:
            numbers = ", ".join(map(str, sorted(model.versions)))
            log.info("adopted %s: versions %s, live %d", model.name, numbers, model.live.number)
