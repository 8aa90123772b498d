"""ZMTP 3.0 by hand, as an attacker speaks it on the control and events sockets."""

_LARGE = 256
GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


def ready(kind: bytes, identity: bytes = b"") -> bytes:
    """The handshake's one command: this is a socket of this kind, which calls itself so."""
    body = b"\x05READY" + _property(b"Socket-Type", kind) + _property(b"Identity", identity)
    return b"\x04" + bytes((len(body),)) + body


def message(*parts: bytes) -> bytes:
    """One message of these frames."""
    last = len(parts) - 1
    return b"".join(_frame(part, has_more=n < last) for n, part in enumerate(parts))


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value


def _frame(part: bytes, *, has_more: bool) -> bytes:
    flags = int(has_more)
    if len(part) < _LARGE:
        return bytes((flags, len(part))) + part
    return bytes((flags | 2,)) + len(part).to_bytes(8, "big") + part
