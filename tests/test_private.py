"""A private model: a session of its own, updates in part, opened sizes, and a file that stays."""

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.daemons import LENET
from tests.helpers import wait_until
from tests.mindir import private_session
from tests.nets import dense, model, normalised, normalised_parts, port, privately, saved
from tests.test_prepacked_sessions import asking
from weightd.backends.private import Private
from weightd.backends.threads import ONE, Threads
from weightd.errors import (
    BadFileError,
    ClosedError,
    ForkedError,
    MismatchError,
    PredictError,
    SourceChangedError,
)
from weightd.weights.arrays import Array

MINDIR = Path(__file__).parent / "data" / "lenet5" / "lenet5.mindir"
X = {"x": np.arange(32, dtype=np.float32).reshape(2, 16)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return saved(dense(), tmp_path / "model.onnx")


def expected(x: Array, w: Array, b: Array) -> Array:
    answer: Array = x @ w + b
    return answer


def test_it_answers_as_a_session_of_its_own() -> None:
    x = np.random.default_rng(1).standard_normal((1, 1, 32, 32)).astype(np.float32)
    with Private(MINDIR, ONE) as private:
        (answer,) = private.run({"x": x}).values()
    assert np.array_equal(answer, private_session(MINDIR).run([x])[0])
    with Private(LENET, ONE) as private:
        assert np.array_equal(private.run({"x": x})["12"], privately(LENET, {"x": x})["12"])


def test_weights_without_a_graph_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", w=np.zeros(3))
    with pytest.raises(BadFileError, match="weights without a graph"):
        Private(tmp_path / "w.npz", ONE)


def test_updates_in_part_add_up(file: Path) -> None:
    w, b = np.full((16, 16), 2, np.float32), np.full(16, 7, np.float32)
    with Private(file, ONE) as private:
        private.update({"b": b})
        assert np.allclose(private.run(X)["y"], expected(X["x"], w * 0 + 0.5, b))
        private.update({"w": w})
        assert np.allclose(private.run(X)["y"], expected(X["x"], w, b))


def test_an_update_keeps_a_copy(file: Path) -> None:
    b = np.ones(16, np.float32)
    with Private(file, ONE) as private:
        private.update({"b": b})
        b[:] = 9
        private.update({"w": np.zeros((16, 16), np.float32)})
        assert np.array_equal(private.run(X)["y"], np.ones((2, 16), np.float32))


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"v": np.zeros(16, np.float32)}, "not in the model: v"),
        ({"b": np.zeros(15, np.float32)}, "other shape: b"),
        ({"b": np.zeros(16)}, "other dtype: b"),
        ({}, "it brings nothing"),
    ],
)
def test_an_update_that_does_not_fit_changes_nothing(
    file: Path, update: dict[str, Array], message: str
) -> None:
    with Private(file, ONE) as private:
        before = private.run(X)["y"]
        with pytest.raises(MismatchError, match=message):
            private.update(update)
        assert np.array_equal(private.run(X)["y"], before)


def test_each_prediction_sees_all_of_an_update_or_nothing(file: Path) -> None:
    ones = {"x": np.ones((1, 16), np.float32)}
    sets = [
        {"w": np.full((16, 16), n, np.float32), "b": np.full(16, n, np.float32)} for n in (1, 2)
    ]
    with Private(file, ONE) as private:
        private.update(sets[0])
        numbers = {17.0: 1, 34.0: 2}
        with asking(lambda: numbers.get(float(private.run(ones)["y"][0, 0]), 0), threads=2) as here:
            for turn in range(20):
                private.update(sets[turn % 2])
        assert not here.failures
        assert here.seen.keys() <= {1, 2}


def test_a_file_that_was_rewritten_is_refused_and_nothing_changes(file: Path) -> None:
    with Private(file, ONE) as private:
        before = private.run(X)["y"]
        file.write_bytes(dense(0.75).SerializeToString())
        with pytest.raises(SourceChangedError, match="has changed since"):
            private.update({"b": np.ones(16, np.float32)})
        file.write_bytes(b"nothing")
        with pytest.raises(SourceChangedError, match="cannot be read any more"):
            private.update({"b": np.ones(16, np.float32)})
        assert np.array_equal(private.run(X)["y"], before)


def test_a_file_that_was_replaced_or_deleted_still_serves(file: Path) -> None:
    with Private(file, ONE) as private:
        other = saved(dense(3.0), file.with_name("other.onnx"))
        other.replace(file)
        private.update({"b": np.zeros(16, np.float32)})
        file.unlink()
        private.update({"b": np.ones(16, np.float32)})
        w = np.full((16, 16), 0.5, np.float32)
        assert np.allclose(private.run(X)["y"], expected(X["x"], w, np.ones(16, np.float32)))


def test_sizes_that_the_file_fixes_can_be_opened_where_the_graph_goes_along() -> None:
    x = np.random.default_rng(1).standard_normal((3, 1, 32, 32)).astype(np.float32)
    with Private(MINDIR, ONE) as private:
        with pytest.raises(PredictError):
            private.run({"x": x})
        with private.open_sizes(frozenset({("x", 0)})):
            pass
        (answers,) = private.run({"x": x}).values()
        for row in range(3):
            alone = private.run({"x": x[row : row + 1]})["output"]
            assert np.allclose(answers[row], alone[0], atol=1e-5)
        with private.open_sizes(frozenset({("x", 2), ("x", 3)})):
            pass
        with pytest.raises(PredictError, match="mismatch"):
            private.run({"x": np.zeros((1, 1, 64, 64), np.float32)})


def test_opened_sizes_and_updates_hold_for_each_other(tmp_path: Path) -> None:
    net = model(
        [helper.make_node("Mul", ["x", "s"], ["y"])],
        {"s": np.full((16,), 2, np.float32)},
        inputs=[port("x", [1, 16])],
        outputs=[port("y", [1, 16])],
    )
    with Private(saved(net, tmp_path / "fixed.onnx"), ONE) as private:
        with private.open_sizes(frozenset({("x", 0)})):
            pass
        private.update({"s": np.full((16,), 3, np.float32)})
        assert np.array_equal(private.run(X)["y"], 3 * X["x"])


def test_sizes_that_the_graph_does_not_go_along_with_stay_closed(tmp_path: Path) -> None:
    net = model(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        inputs=[port("a", [2]), port("b", [2])],
        outputs=[port("y", [2])],
    )
    opened = frozenset({("a", 0), ("b", 0)})
    two, three, four = ({"a": n, "b": n} for n in (np.ones(k, np.float32) for k in (2, 3, 4)))
    with Private(saved(net, tmp_path / "fixed.onnx"), ONE) as private:
        with pytest.raises(PredictError), private.open_sizes(opened):
            private.run(three | {"b": four["b"]})
        with pytest.raises(PredictError):
            private.run(three)
        assert private.run(two)["y"].tolist() == [2, 2]
        with private.open_sizes(opened):
            private.run(three)
        assert private.run(four)["y"].tolist() == [2] * 4


def test_a_change_ends_before_the_file_is_closed(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A descriptor that is closed while it is read may be another file's by then."""
    reads, goes_on = threading.Event(), threading.Event()
    source = Private._source

    def slowly(self: Private) -> object:
        reads.set()
        goes_on.wait()
        return source(self)

    private = Private(file, ONE)
    monkeypatch.setattr(Private, "_source", slowly)
    faults: list[type[BaseException]] = []

    def update() -> None:
        try:
            private.update({"b": np.zeros(16, np.float32)})
        except ClosedError as error:
            faults.append(type(error))

    threads = [threading.Thread(target=update), threading.Thread(target=private.close)]
    threads[0].start()
    reads.wait()
    threads[1].start()
    wait_until(lambda: is_closed(private))
    goes_on.set()
    for thread in threads:
        thread.join()
    assert faults == [ClosedError]
    with pytest.raises(ClosedError):
        private.update({"b": np.zeros(16, np.float32)})


def is_closed(private: Private) -> bool:
    try:
        private.run(X)
    except ClosedError:
        return True
    return False


def test_normalisation_that_was_folded_away_can_still_be_updated(tmp_path: Path) -> None:
    weights, x = normalised_parts()
    changed = {"scale": np.full(4, 3, np.float32), "mean": np.zeros(4, np.float32)}
    after = saved(normalised(weights | changed), tmp_path / "after.onnx")
    with Private(saved(normalised(weights), tmp_path / "before.onnx"), ONE) as private:
        private.update(changed)
        assert np.allclose(private.run({"x": x})["y"], privately(after, {"x": x})["y"], atol=1e-5)


def test_external_data_is_read_again_for_an_update(tmp_path: Path) -> None:
    onnx.save_model(
        dense(),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )
    with Private(tmp_path / "m.onnx", ONE) as private:
        private.update({"b": np.zeros(16, np.float32)})
        assert np.allclose(private.run(X)["y"], X["x"] @ np.full((16, 16), 0.5, np.float32))
        (tmp_path / "w.bin").write_bytes(bytes((tmp_path / "w.bin").stat().st_size))
        with pytest.raises(SourceChangedError):
            private.update({"b": np.ones(16, np.float32)})


def test_a_forked_child_is_told_to_build_its_own(file: Path) -> None:
    for threads in (ONE, Threads(2)):
        with Private(file, threads) as private:
            child = os.fork()
            if child == 0:
                try:
                    private.run(X)
                except ForkedError:
                    os._exit(7)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_closed_it_predicts_nothing_and_keeps_no_file(file: Path) -> None:
    private = Private(file, ONE)
    private.close()
    private.close()
    with pytest.raises(ClosedError):
        private.run(X)
    assert str(file) not in {os.readlink(f"/proc/self/fd/{fd}") for fd in _fds()}
    shutil.rmtree(file.parent)


def _fds() -> list[str]:
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
