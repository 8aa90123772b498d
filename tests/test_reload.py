"""reload.py and configured.py: a running daemon goes by other settings, and nothing else moves."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.daemons import EARLY, FINAL, LENET, Kept, kept_daemon, running_worker
from tests.helpers import wait_until
from weightd.daemon.asker import Asker
from weightd.daemon.catalog import Catalog
from weightd.daemon.configured import Configured
from weightd.daemon.model import Aside, Model, Version, VersionState
from weightd.daemon.origin import Origin
from weightd.daemon.reload import Reload
from weightd.daemon.settings import Settings, access_of
from weightd.errors import SettingsError, StagingError, WeightdError
from weightd.ipc import protocol


class Configuration:
    """A kept daemon and its settings file."""

    def __init__(self, kept: Kept, file: Path) -> None:
        self.kept, self.file = kept, file

    def reload(self, text: str) -> str:
        """Write it, send SIGHUP to the keeper; what was logged from then on until it was done."""
        before = len(self.kept.log())
        self.file.write_text(text)
        self.kept.process.send_signal(signal.SIGHUP)
        done = ("settings were read again", "settings stay as they were")
        wait_until(lambda: any(d in self.kept.log()[before:] for d in done))
        return self.kept.log()[before:]

    def versions(self) -> dict[str, list[tuple[int, str]]]:
        models = self.kept.client.status().models
        return {n: [(v.number, v.state) for v in m.versions] for n, m in models.items()}


@contextmanager
def configured(text: str, **given: Any) -> Iterator[Configuration]:
    with tempfile.TemporaryDirectory(prefix="wd-") as folder:
        for path in (EARLY, FINAL, LENET):
            shutil.copy(path, folder)
        file = Path(folder) / "weightd.toml"
        file.write_text(text)
        with kept_daemon(origin=Origin(str(file), given)) as kept:
            yield Configuration(kept, file)


ONE = '[models]\none = "lenet5_early.safetensors"\n'


def test_what_has_changed_in_the_file_is_applied_to_a_running_daemon() -> None:
    with configured(ONE) as config:
        kept = config.kept
        wait_until(lambda: config.versions() == {"one": [(1, "LIVE")]})
        pid = kept.pid
        config.reload('[models]\none = "lenet5.safetensors"\ntwo = "lenet5_early.safetensors"\n')
        wait_until(lambda: len(config.versions()) == 2)
        assert config.versions() == {"one": [(1, "HELD"), (2, "LIVE")], "two": [(1, "LIVE")]}
        kept.client.load("mine", EARLY)
        said = (
            config.reload(
                'keep = 1\nmemory_budget = "1GiB"\nattach_public = true\n'
                '[models]\none = "lenet5.safetensors"\nmine = "lenet5.safetensors"\n'
            )
            + kept.log()
        )
        assert "attach_public has changed, which counts after a restart" in said
        assert "mine was loaded by a client" in said
        assert config.versions() == {"one": [(2, "LIVE")], "mine": [(1, "LIVE")]}
        assert "freed one version 1" in kept.log()
        assert kept.client.status().budget_nbytes == 2**30
        assert kept.pid == pid


def test_a_broken_file_changes_nothing_and_is_said() -> None:
    with configured(ONE) as config:
        wait_until(lambda: len(config.versions()) == 1)
        before = config.kept.client.status()
        said = config.reload("keep = 0\n")
        assert "the settings stay as they were" in said
        assert "keep" in said
        assert "not TOML" in config.reload("= =\n")
        said = config.reload('[models]\none = "gone.safetensors"\n')
        assert "ERROR weightd.daemon: model one stays as it is: " in said
        after = config.kept.client.status()
        assert (after.models, after.pid) == (before.models, before.pid)


def test_a_denial_ends_a_lease_and_a_rule_lets_in() -> None:
    with configured(ONE) as config, running_worker(config.kept) as worker:
        wait_until(lambda: len(config.versions()) == 1)
        path = 'path = "lenet5_early.safetensors"\n'
        config.reload(f"[models.one]\n{path}allow = ['uid:{os.geteuid()}']\n")
        assert "error" not in worker.ask("attach", model="one")
        assert [w.pid for w in config.kept.client.status().workers] == [worker.pid]
        config.reload(f"deny = ['uid:{os.geteuid()}']\n[models.one]\n{path}")
        wait_until(lambda: worker.ask("state", model="one")["lag"])
        assert worker.ask("attach", model="one")["error"][0] == "NotAllowedError"


def test_after_a_kill_the_file_is_read_again_and_what_is_there_is_not_loaded_again() -> None:
    with configured(ONE) as config:
        wait_until(lambda: len(config.versions()) == 1)
        config.file.write_text(ONE + 'two = "lenet5.safetensors"\n')
        config.kept.kill()
        wait_until(lambda: len(config.versions()) == 2)
        assert config.versions() == {"one": [(1, "LIVE")], "two": [(1, "LIVE")]}
        assert config.kept.log().count(": staging ") == 2


def test_the_log_level_is_another_one_at_once() -> None:
    with configured("") as config:
        kept = config.kept
        config.file.write_text('log_level = "ERROR"\nmemory_budget = 4096\n')
        kept.process.send_signal(signal.SIGHUP)
        wait_until(lambda: kept.client.status().budget_nbytes == 4096)
        with pytest.raises(WeightdError):
            kept.client.load("lenet", EARLY)
        assert "staging lenet" not in kept.log()


def test_rates_and_deadlines_are_others_at_once() -> None:
    parts = {n: SimpleNamespace() for n in ("publisher", "scrubbing", "requests", "attach_plane")}
    for name in ("publisher", "scrubbing"):
        parts[name].apply = partial(setattr, parts[name], "settings")
    old, new = Settings(), Settings(requests_per_s_per_uid=7.0, hello_deadline_s=3.0)
    nothing = SimpleNamespace(reconsider=bool, follow=bool)  # do nothing
    Reload(Quiet(), Catalog(), **parts, admission=nothing, configured=nothing).apply(  # type: ignore[arg-type]
        old, new, access_of(new)
    )
    assert parts["requests"].per_s == 7.0
    assert parts["attach_plane"].hello_deadline_s == 3.0
    assert parts["publisher"].settings is parts["scrubbing"].settings is new


# --- while models are being loaded -------------------------------------------------------


class Publishing:
    """Stands where the publisher does: a load is done when the test says so."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.begun: list[str] = []
        self._asker: Asker | None = None

    def load(self, request: protocol.Load, offered: Any, asker: Asker) -> None:
        offered.close()
        self.begun.append(f"{request.model} from {Path(asker.configured).name}")
        self._name, self._asker = request.model, asker

    publish = load

    def done(self, error: StagingError | None = None) -> None:
        asker, self._asker = self._asker, None
        assert asker is not None
        if error is None:
            model = Model(self._name, 0, configured=asker.configured)
            model.versions[1] = Version(1, 1, VersionState.LIVE)
            model.was_live = [1]
            self._catalog.models[self._name] = model
        asker.answer(error or protocol.Live(self._name, 1, 1))


class Quiet:
    """A server that does nothing."""

    def perform(self, actions: object) -> None: ...

    def emit(self, *_: object, **__: object) -> None: ...


@pytest.fixture
def loading(tmp_path: Path) -> Any:
    for name in "abc":
        (tmp_path / name).touch()
    catalog = Catalog()
    publishing = Publishing(catalog)
    follower = Configured(Quiet(), catalog, publishing)  # type: ignore[arg-type]  # what it uses

    def follow(**paths: str) -> None:
        follower.follow({name: str(tmp_path / path) for name, path in paths.items()})

    return follow, publishing, catalog


def test_settings_read_twice_while_a_model_is_loaded_load_it_once(loading: Any) -> None:
    follow, publishing, _ = loading
    follow(one="a", two="b")
    follow(one="a", two="b")
    publishing.done()
    publishing.done()
    assert publishing.begun == ["one from a", "two from b"]


def test_a_file_that_is_not_there_hinders_only_a_daemon_that_has_nothing(loading: Any) -> None:
    _, publishing, catalog = loading
    configured = Configured(Quiet(), catalog, publishing)
    with pytest.raises(SettingsError, match="No such file"):
        configured.check({"m": "/nowhere/m.onnx"})
    catalog.adopt([], 5, [Aside("m", 0, "no descriptor was left", ())])
    configured.check({"m": "/nowhere/m.onnx"})


def test_a_model_that_is_gone_before_it_was_loaded_is_not_there_after(loading: Any) -> None:
    follow, publishing, catalog = loading
    follow(one="a", two="b")
    follow()
    publishing.done()
    assert (publishing.begun, catalog.models) == (["one from a"], {})


def test_a_path_that_changes_while_it_is_loaded_is_loaded_next(loading: Any) -> None:
    follow, publishing, catalog = loading
    follow(one="a", two="b")
    follow(one="c", two="c")
    publishing.done()
    publishing.done()
    publishing.done()
    assert publishing.begun == ["one from a", "one from c", "two from c"]
    assert Path(catalog.models["one"].configured).name == "c"


def test_a_model_that_cannot_be_loaded_hinders_no_other(loading: Any) -> None:
    follow, publishing, catalog = loading
    follow(one="missing", two="a", three="b")
    publishing.done(StagingError("no"))
    publishing.done()
    assert list(catalog.models) == ["three"]


def test_a_model_that_a_client_loads_meanwhile_is_left_alone(loading: Any) -> None:
    follow, publishing, catalog = loading
    follow(one="a", two="b")
    catalog.models["two"] = Model("two", 0)
    publishing.done()
    assert publishing.begun == ["one from a"]
