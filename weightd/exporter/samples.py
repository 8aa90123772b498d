"""A reading of the daemon as the values of metrics. Pure functions.

There are at most as many series as models times a few: names of models are the only words of
users among the labels, and beyond the largest 200 models they are summed up as `(other)`, which
cannot be a model's name. Everything else is a word of weightd's own.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate, chain

from weightd.ipc.counts import Counts, Histogram
from weightd.ipc.protocol import EVENTS, REQUESTS, DaemonStatus
from weightd.readings import Reading, held_elsewhere_nbytes

MAX_MODELS = 200
OTHER = "(other)"
_EVENT_OF_KIND = {
    "load": "loaded",
    "publish": "published",
    "update": "updated",
    "rollback": "rolled-back",
}
_PER_SECOND_US = 1e6

# A metric's name, the values of its labels, and its value.
Sample = tuple[str, tuple[str, ...], float]
Buckets = tuple[str, tuple[str, ...], list[tuple[str, float]], float]


def samples(reading: Reading) -> Iterator[Sample]:
    """All single values."""
    yield "weightd_up", (), 1
    yield "weightd_scrape_seconds", (), reading.took_s
    yield from _daemon(reading.status, reading.counts)
    yield from _models(reading)
    yield from _memory(reading)
    yield from _counts(reading.counts)


def histograms(counts: Counts) -> Iterator[Buckets]:
    """All histograms, their buckets summed up as Prometheus has them."""
    for kind, histogram in counts.staging_s.items():
        yield "weightd_staging_seconds", (kind,), _buckets(histogram, 1), histogram.total
    pause = counts.switch_pause_us
    buckets = _buckets(pause, _PER_SECOND_US)
    yield "weightd_switch_pause_seconds", (), buckets, pause.total / _PER_SECOND_US


def _buckets(histogram: Histogram, per_second: float) -> list[tuple[str, float]]:
    ends = [str(end / per_second) for end in histogram.ends]
    sums = map(float, accumulate(histogram.counts))
    return list(zip([*ends, "+Inf"], sums, strict=True))


def _daemon(status: DaemonStatus, counts: Counts) -> Iterator[Sample]:
    yield "weightd_build_info", (status.version,), 1
    yield "weightd_start_time_seconds", (), round(time.time() - status.uptime_s, 1)
    yield "weightd_daemon_cpu_seconds_total", (), counts.cpu_s
    yield "weightd_daemon_resident_bytes", (), counts.resident_nbytes
    yield "weightd_models", (), len(status.models)
    yield "weightd_stagings", (), len(status.staging)


def _models(reading: Reading) -> Iterator[Sample]:
    models = reading.status.models
    by_size = sorted(models, key=lambda name: (-models[name].nbytes, name))
    named = set(by_size[:MAX_MODELS])
    versions: Counter[tuple[str, ...]] = Counter()
    nbytes: Counter[str] = Counter()
    for name, model in models.items():
        label = _label(name, named)
        versions.update((label, v.state.lower()) for v in model.versions)
        nbytes[label] += model.nbytes
        if name in named:
            yield "weightd_live_version", (name,), model.live
    leases, lagging = _summed(reading.leases, named), _summed(reading.lagging, named)
    for label in chain(nbytes, leases.keys() - nbytes.keys()):
        yield "weightd_model_bytes", (label,), nbytes[label]
        yield "weightd_leases", (label,), leases[label]
        yield "weightd_lagging_workers", (label,), lagging[label]
    for labels, number in versions.items():
        yield "weightd_versions", labels, number


def _label(name: str, named: set[str]) -> str:
    return name if name in named else OTHER


def _summed(found: Mapping[str, int], named: set[str]) -> "Counter[str]":
    by_label: Counter[str] = Counter()
    for name, number in found.items():
        by_label[_label(name, named)] += number
    return by_label


def _memory(reading: Reading) -> Iterator[Sample]:
    status = reading.status
    yield "weightd_shared_bytes", (), status.held_nbytes
    yield "weightd_saved_bytes", (), reading.saved_nbytes
    if status.budget_nbytes is not None:
        yield "weightd_budget_bytes", (), status.budget_nbytes
    elsewhere = held_elsewhere_nbytes(status)
    if elsewhere is not None:
        yield "weightd_held_elsewhere_bytes", (), elsewhere


def _counts(counts: Counts) -> Iterator[Sample]:
    events = counts.events
    yield "weightd_attaches_total", (), events.get("attached", 0)
    yield "weightd_detaches_total", (), events.get("detached", 0)
    yield "weightd_switches_total", (), events.get("switched", 0)
    yield "weightd_fallbacks_total", (), events.get("fell-back", 0)
    yield "weightd_switch_failures_total", (), counts.not_switched
    yield "weightd_unfit_reports_total", (), counts.unfit
    yield "weightd_notices_total", (), counts.notices
    yield "weightd_evictions_total", (), counts.evictions
    yield "weightd_dropped_messages_total", (), counts.dropped
    yield "weightd_damaged_versions", (), counts.damaged_versions
    yield "weightd_adopted_versions", (), counts.adopted_versions
    yield "weightd_refused_adoptions", (), counts.refused_adoptions
    if counts.adoption_s is not None:
        yield "weightd_adoption_seconds", (), counts.adoption_s
    for kind, event in _EVENT_OF_KIND.items():
        yield "weightd_publishes_total", (kind,), events.get(event, 0)
    for event in dict.fromkeys((*EVENTS, *events)):
        yield "weightd_events_total", (event,), events.get(event, 0)
    yield from _requests(counts.requests)
    yield from _by_two("weightd_refusals_total", counts.refusals)
    yield from _by_two("weightd_publish_failures_total", counts.failures)


def _requests(found: Mapping[str, Mapping[str, int]]) -> Iterator[Sample]:
    """All that there are, also those that nobody has made yet."""
    for plane, kinds in REQUESTS.items():
        made = found.get(plane, {})
        for request in dict.fromkeys((*(kind.__name__ for kind in kinds), *made)):
            yield "weightd_requests_total", (plane, request), made.get(request, 0)


def _by_two(name: str, found: Mapping[str, Mapping[str, int]]) -> Iterator[Sample]:
    for first, by_second in found.items():
        for second, number in by_second.items():
            yield name, (first, second), number
