"""Which metrics there are, what they become of a reading, and the page that lists them. No process
is needed."""

import re
from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest

from tests.scraping import parsed
from weightd.daemon.counters import Counters, Histogram
from weightd.errors import NotAllowedError, StagingError
from weightd.exporter.collector import DaemonCollector, fill
from weightd.exporter.families import FAMILIES
from weightd.exporter.samples import MAX_MODELS, OTHER
from weightd.ipc.protocol import DaemonStatus, Tally, decode, encode
from weightd.ipc.status import ModelStatus, VersionStatus, WorkerStatus
from weightd.readings import Reading

PAGE = Path(__file__).parent.parent / "docs" / "watching.md"
MIB = 2**20


def version(number: int, *, leases: int = 0, nbytes: int = MIB) -> VersionStatus:
    return VersionStatus(number, "LIVE", nbytes, 0, leases)


def model(name: str, *versions: VersionStatus, nbytes: int = MIB) -> ModelStatus:
    return ModelStatus(name, 0, 1, "compiled", "plain", "", "x", nbytes, versions, ())


def worker(name: str, *, lag: str = "") -> WorkerStatus:
    return WorkerStatus(1, 0, name, 1, 0.0, 0, 0.0, lag, "", "")


def reading(
    *models: ModelStatus, workers: tuple[WorkerStatus, ...] = (), counters: Counters | None = None
) -> Reading:
    by_name = {m.name: m for m in models}
    status = DaemonStatus(1, "i", "0", 1.0, "/run", "pidfs", MIB, 2 * MIB, by_name, workers, ())
    counts = (counters or Counters()).snapshot(dropped=0, damaged_versions=0)
    return Reading(status, counts, 0.0, 0.001)


def busy() -> Counters:
    """One of everything."""
    counters = Counters(adoption_s=0.25)
    counters.requested("control", StagingError("any object"))
    counters.refused("attach", NotAllowedError("x"))
    counters.failed("load", StagingError("x"))
    counters.events["attached"] += 1
    return counters


def test_every_metric_has_a_value_when_there_is_one_of_everything() -> None:
    counted = reading(model("m", version(1)), workers=(worker("m"),), counters=busy())
    filled = {family.name: family for family in fill(counted)}
    empty = {name for name, family in filled.items() if not family.samples}
    assert empty <= {"weightd_held_elsewhere_bytes"}  # depends on the machine: test_cgroup.py
    assert set(filled) == {name.removesuffix("_total") for name in FAMILIES}


def test_the_page_lists_the_metrics_that_there_are() -> None:
    rows = re.findall(r"^\| `(weightd_\w+)` \| (\w+) \|(.*?)\| (.*) \|$", PAGE.read_text(), re.M)
    listed = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels)), says)
        for name, kind, labels, says in rows
    }
    assert listed == {f.name: (f.kind, f.labels, f.help) for f in FAMILIES.values()}
    assert [row[0] for row in rows] == list(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_name_says_its_unit_and_its_type(name: str) -> None:
    family = FAMILIES[name]
    assert re.fullmatch(r"weightd_[a-z]+(_[a-z]+)*", name)
    assert name.endswith("_total") is (family.kind == "counter")
    assert not re.search(r"_(ms|us|mib|kib|percent)(_total)?$", name)
    assert "model" not in family.labels or family.kind == "gauge"


def test_the_number_of_series_is_bounded_however_many_models_there_are() -> None:
    names = [f"m{i}" for i in range(3 * MAX_MODELS)]
    models = [model(name, version(1), nbytes=i) for i, name in enumerate(names)]
    workers = tuple(worker(name, lag="slow") for name in names)
    series = samples_of(reading(*models, workers=workers))
    with_model = {dict(labels)["model"] for _, labels in series if "model" in dict(labels)}
    assert with_model == {*names[-MAX_MODELS:], OTHER}
    of_others = frozenset({("model", OTHER)})
    assert series["weightd_leases", of_others] == 2 * MAX_MODELS
    assert series["weightd_lagging_workers", of_others] == 2 * MAX_MODELS
    assert series["weightd_model_bytes", of_others] == sum(range(2 * MAX_MODELS))


def test_workers_of_a_model_that_was_unloaded_are_still_counted() -> None:
    series = samples_of(reading(workers=(worker("gone"), worker("gone"))))
    assert series["weightd_leases", frozenset({("model", OTHER)})] == 2


def test_saved_is_what_copies_would_take_beyond_the_one() -> None:
    held = version(1, leases=1), version(2, leases=3, nbytes=5 * MIB), version(3)
    assert reading(model("m", *held)).saved_nbytes == 2 * 5 * MIB


def test_a_histogram_puts_each_value_where_its_bucket_ends() -> None:
    histogram = Histogram((1.0, 2.0, 5.0))
    for value in (0.0, 1.0, 1.1, 5.0, 5.1, 1e12):
        histogram.add(value)
    snapshot = histogram.snapshot()
    assert snapshot.counts == (2, 1, 1, 2)
    assert snapshot.total == pytest.approx(1e12 + 12.2)


def test_buckets_are_summed_up_and_in_seconds() -> None:
    counters = Counters()
    for pause_us in (40.0, 600.0, 9e6):
        counters.switch_pause_us.add(pause_us)
    series = samples_of(reading(counters=counters))

    def bucket(end: str) -> float:
        return series["weightd_switch_pause_seconds_bucket", frozenset({("le", end)})]

    assert [bucket(end) for end in ("5e-05", "0.0005", "0.001", "1.0", "+Inf")] == [1, 1, 2, 2, 3]
    assert series["weightd_switch_pause_seconds_count", frozenset()] == 3
    assert series["weightd_switch_pause_seconds_sum", frozenset()] == pytest.approx(9.00064)


def test_counts_travel_as_they_are() -> None:
    counts = busy().snapshot(dropped=3, damaged_versions=1)
    assert decode(encode(Tally(counts)), Tally).counts == counts


def test_names_can_be_asked_for_without_asking_the_daemon() -> None:
    collector = DaemonCollector(Path("/nowhere"))
    assert [family.samples for family in collector.describe()] == [[]] * len(FAMILIES)


def samples_of(counted: Reading) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    class Once:
        def collect(self) -> object:
            return fill(counted)

    return parsed(generate_latest(Once()).decode())  # type: ignore[arg-type] # a registry is what collects
