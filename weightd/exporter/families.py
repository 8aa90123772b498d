"""Which metrics there are: name, type, labels and what each says. docs/watching.md has the same
list, held to this one by a test."""

from dataclasses import dataclass
from typing import Literal, assert_never

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

Kind = Literal["gauge", "counter", "histogram"]
Filled = GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily


@dataclass(frozen=True)
class Family:
    """One metric. help: what it says, for people."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    def empty(self) -> Filled:
        """The family without samples, as prometheus_client has it."""
        match self.kind:
            case "gauge":
                return GaugeMetricFamily(self.name, self.help, labels=self.labels)
            case "counter":
                return CounterMetricFamily(self.name, self.help, labels=self.labels)
            case "histogram":
                return HistogramMetricFamily(self.name, self.help, labels=self.labels)
        assert_never(self.kind)


_ALL = (
    Family("weightd_up", "gauge", "1 if the daemon answered, else 0 and nothing else is told"),
    Family("weightd_scrape_seconds", "gauge", "How long the daemon took to answer"),
    Family("weightd_build_info", "gauge", "Always 1; the daemon's version", ("version",)),
    Family("weightd_start_time_seconds", "gauge", "When the daemon began, since 1970"),
    Family("weightd_daemon_cpu_seconds_total", "counter", "CPU time of the daemon's process"),
    Family("weightd_daemon_resident_bytes", "gauge", "Resident memory of the daemon's process"),
    Family("weightd_models", "gauge", "Models that are held"),
    Family("weightd_versions", "gauge", "Versions that are held", ("model", "state")),
    Family("weightd_live_version", "gauge", "The number of the live version", ("model",)),
    Family(
        "weightd_model_bytes",
        "gauge",
        "Memory of all versions of a model, what they share counted once",
        ("model",),
    ),
    Family("weightd_leases", "gauge", "Workers that are attached", ("model",)),
    Family("weightd_lagging_workers", "gauge", "Workers not on the live version (yet)", ("model",)),
    Family("weightd_shared_bytes", "gauge", "Memory of all versions, each segment counted once"),
    Family(
        "weightd_saved_bytes",
        "gauge",
        "What workers would take more if each had a private copy of what it holds",
    ),
    Family(
        "weightd_held_elsewhere_bytes",
        "gauge",
        "Shared memory charged to the daemon's cgroup that it no longer holds; absent where the "
        "cgroup is not the daemon's alone, and while something is staged",
    ),
    Family("weightd_budget_bytes", "gauge", "The memory budget; absent without one"),
    Family("weightd_damaged_versions", "gauge", "Held versions that fail their digests"),
    Family("weightd_stagings", "gauge", "Loads, publishes and updates that run now"),
    Family("weightd_attaches_total", "counter", "Leases that began"),
    Family("weightd_detaches_total", "counter", "Leases that ended, however"),
    Family("weightd_requests_total", "counter", "Valid requests", ("plane", "request")),
    Family(
        "weightd_refusals_total",
        "counter",
        "Requests and connections that were refused, by the error",
        ("plane", "reason"),
    ),
    Family(
        "weightd_publishes_total",
        "counter",
        "Versions that became live: load, publish, update or rollback",
        ("kind",),
    ),
    Family(
        "weightd_publish_failures_total",
        "counter",
        "Stagings of which nothing came, by the error",
        ("kind", "reason"),
    ),
    Family(
        "weightd_staging_seconds",
        "histogram",
        "From the start of a staging to its end; those that failed left out",
        ("kind",),
    ),
    Family("weightd_switches_total", "counter", "Switches of workers to another version"),
    Family("weightd_switch_failures_total", "counter", "Workers' reports that they did not switch"),
    Family(
        "weightd_switch_pause_seconds",
        "histogram",
        "How long predictions waited for a switch, as workers report it",
    ),
    Family("weightd_notices_total", "counter", "Notices of new versions sent to workers"),
    Family("weightd_unfit_reports_total", "counter", "Workers' reports that a version is unfit"),
    Family("weightd_fallbacks_total", "counter", "Workers that run another, slower engine"),
    Family("weightd_evictions_total", "counter", "Connections closed since they never attached"),
    Family(
        "weightd_dropped_messages_total",
        "counter",
        "Control messages whose sender is unknown, and replies that nobody read",
    ),
    Family("weightd_events_total", "counter", "Everything that happened, by event", ("event",)),
    Family(
        "weightd_adoption_seconds",
        "gauge",
        "How long it took to adopt what an earlier daemon held; absent if there was nothing",
    ),
    Family("weightd_adopted_versions", "gauge", "Versions adopted at the start"),
    Family("weightd_refused_adoptions", "gauge", "What was not adopted at the start"),
)
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
