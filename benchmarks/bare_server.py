"""`python -m weightd.benchmarks.bare_server ADDRESS NBYTES`: the other end of bare.attach()."""

import socket
import sys

from weightd.benchmarks.bare import give_to_all
from weightd.benchmarks.parent import tell


def main(address: str, nbytes: int) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen(16)
    tell(is_ready=True)
    give_to_all(listener, nbytes)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
