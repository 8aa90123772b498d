"""Which devices this machine has, and what becomes of a Context's targets on it."""

import functools
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from weightd.errors import SettingsError, TargetError

log = logging.getLogger("weightd")

TARGETS = ("cpu", "gpu", "ascend")
SUBSTITUTE = "WEIGHTD_TARGET_SUBSTITUTE"
_WILL_FAIL = f"building a model will fail, unless {SUBSTITUTE}=cpu has it run on the CPU"


def warn_without_ascend(targets: Sequence[str], environ: Mapping[str, str]) -> None:
    """Say in the log what an Ascend, which is one of the targets, would need that is not here."""
    if environ.get(SUBSTITUTE):
        return  # whoever set it knows
    home = environ.get("ASCEND_HOME_PATH") or environ.get("ASCEND_CUSTOM_PATH")
    if not home or not Path(home).is_dir():
        log.warning(
            "target 'ascend': neither ASCEND_HOME_PATH nor ASCEND_CUSTOM_PATH names a folder, so "
            "there is no Ascend software here%s",
            "" if len(targets) > 1 else f"; {_WILL_FAIL}",
        )


def resolve(targets: Sequence[str], environ: Mapping[str, str]) -> str:
    """The device that a model is built for: 'cpu' or 'gpu'.

    The first target that this machine has; a list that names only others is refused (TargetError),
    unless $WEIGHTD_TARGET_SUBSTITUTE says what to take instead.
    """
    wanted = [target.lower() for target in targets]
    if wanted[0] == "cpu":
        return "cpu"
    here = devices()
    found = next((target for target in wanted if target in here), None)
    if found == wanted[0]:
        return found
    substitute = environ.get(SUBSTITUTE, "")
    if substitute and substitute not in ("cpu", "gpu"):
        raise SettingsError(f"{SUBSTITUTE} is {substitute!r}; it is cpu or gpu")
    if substitute and substitute not in here:
        raise TargetError(
            f"{SUBSTITUTE} is {substitute!r}, which this machine does not have either; it has "
            f"{', '.join(here)}"
        )
    taken = substitute or found
    if not taken:
        raise TargetError(
            f"this machine has no {wanted[0]!r} that weightd can use; its targets are: "
            f"{', '.join(here)}. Set context.target to one of them, or {SUBSTITUTE}=cpu in the "
            "environment to run such scripts unchanged"
        )
    _say_once(wanted[0], taken)
    return taken


def devices() -> tuple[str, ...]:
    """The targets that this machine has."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    return ("cpu", "gpu") if not hidden and _has_gpu() else ("cpu",)


@functools.cache
def _has_gpu() -> bool:
    """Whether there is a CUDA device, and an onnxruntime that can use it."""
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return False
    from weightd.backends.onnxruntime import has_cuda

    return has_cuda()


@functools.cache
def _say_once(wanted: str, taken: str) -> None:
    log.warning("there is no %r here that weightd can use: models run on the %r", wanted, taken)
