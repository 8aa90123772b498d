"""What a daemon owns that goes to its successor: who has a part in it gets it as one."""

import msgspec

from weightd.daemon.catalog import Catalog
from weightd.daemon.fdstore import FdStore
from weightd.daemon.processes import ProcessTable
from weightd.daemon.sources import Sources
from weightd.daemon.vault import Vault


class Estate(msgspec.Struct, frozen=True):
    """The parts of which something goes to a successor."""

    store: FdStore
    catalog: Catalog
    vault: Vault
    sources: Sources
    processes: ProcessTable
