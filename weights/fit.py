"""Do new weights fit a model? Compares parameters and ports; pure, names what differs."""

from collections.abc import Callable, Collection, Iterable, Sequence

from weightd.errors import MismatchError
from weightd.ipc.words import counted
from weightd.weights.entries import Parameter, Port

NAMED = 5  # how many differences a message spells out


def check_parameters_fit(
    new: Iterable[Parameter],
    live: Iterable[Parameter],
    *,
    optional: Collection[str] = (),
    model: str,
) -> None:
    """MismatchError unless `new` has exactly `live`'s names, dtypes and shapes; it may lack the
    `optional` ones."""
    optional = frozenset(optional)
    brought = {parameter.name: parameter for parameter in new}
    wanted = {parameter.name: parameter for parameter in live}
    both = [(brought[name], wanted[name]) for name in wanted if name in brought]
    faults = [
        _listed("missing", [n for n in wanted if n not in brought and n not in optional]),
        _listed("not in the model", [n for n in brought if n not in wanted]),
        _differing("dtype", both, lambda p: p.dtype),
        _differing("shape", both, lambda p: p.shape),
    ]
    if any(faults):
        raise MismatchError(
            f"the new weights do not fit model {model!r} (new: {counted(len(brought), 'tensor')}, "
            f"model: {len(wanted)}): " + "; ".join(filter(None, faults))
        )


def check_parts_fit(new: Iterable[Parameter], live: Iterable[Parameter], *, model: str) -> None:
    """MismatchError unless there is something in `new`, and each of it has a name of `live`, with
    its dtype and shape."""
    brought = {parameter.name: parameter for parameter in new}
    wanted = {parameter.name: parameter for parameter in live}
    both = [(brought[name], wanted[name]) for name in brought if name in wanted]
    faults = [
        "" if brought else "it brings nothing",
        _listed("not in the model", [n for n in brought if n not in wanted]),
        _differing("dtype", both, lambda p: p.dtype),
        _differing("shape", both, lambda p: p.shape),
    ]
    if any(faults):
        raise MismatchError(
            f"the update does not fit model {model!r}: " + "; ".join(filter(None, faults))
        )


def check_ports_fit(what: str, new: Sequence[Port], live: Sequence[Port], *, model: str) -> None:
    """MismatchError unless names, dtypes and sizes agree. Symbols may have other names."""
    if [_plain(port) for port in new] != [_plain(port) for port in live]:
        raise MismatchError(
            f"the new graph does not fit model {model!r}: its {what} are {_ports_text(new)}, "
            f"the model's are {_ports_text(live)}"
        )


def _listed(what: str, names: Sequence[str]) -> str:
    return f"{what}: {_first(names)}" if names else ""


def _differing(
    what: str,
    pairs: Iterable[tuple[Parameter, Parameter]],
    part: Callable[[Parameter], object],
) -> str:
    texts = [
        f"{new.name} (new: {part(new)}, model: {part(live)})"
        for new, live in pairs
        if part(new) != part(live)
    ]
    return _listed(f"other {what}", texts)


def _first(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + more


def _plain(port: Port) -> tuple[str, str, tuple[int | None, ...]]:
    sizes = tuple(dim if isinstance(dim, int) else None for dim in port.shape)
    return port.name, port.dtype, sizes


def _ports_text(ports: Sequence[Port]) -> str:
    texts = []
    for port in ports:
        dims = ", ".join("?" if dim is None else str(dim) for dim in port.shape)
        texts.append(f"{port.name} {port.dtype}[{dims}]")
    return _first(texts) or "none"
