"""Asks the daemon when somebody scrapes, and fills the metrics with what it says."""

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import CollectorRegistry, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from weightd.client import Client
from weightd.errors import WeightdError
from weightd.exporter.families import FAMILIES, Filled
from weightd.exporter.samples import histograms, samples
from weightd.readings import Reading, take

log = logging.getLogger("weightd.exporter")

_TIMEOUT_S = 2.0  # for each of two requests; a scraper is hung up on after five seconds
_FRESH_S = 0.5  # however many scrape, the daemon is asked twice a second


class DaemonCollector(Collector):
    """Owns its client. From several threads: one asks, and the others get the same answer."""

    def __init__(self, runtime_dir: Path) -> None:
        self._runtime_dir = runtime_dir
        self._asking = threading.Lock()
        self._client: Client | None = None
        self._last: Reading | None = None
        self._last_s = float("-inf")
        self._fault = ""

    def registry(self) -> CollectorRegistry:
        """A registry with nothing but this in it."""
        registry = CollectorRegistry()
        registry.register(self)
        return registry

    def describe(self) -> list[Filled]:
        """The families without samples; the daemon is not asked."""
        return [family.empty() for family in FAMILIES.values()]

    def collect(self) -> Iterator[Filled]:
        """What the daemon says now. A daemon that does not answer is one more answer: weightd_up
        is 0."""
        reading = self._read()
        if reading is None:
            up = FAMILIES["weightd_up"]
            yield GaugeMetricFamily(up.name, up.help, value=0)
        else:
            yield from (family for family in fill(reading) if family.samples)

    def close(self) -> None:
        with self._asking:
            self._drop_client()

    def _read(self) -> Reading | None:
        with self._asking:
            if time.monotonic() - self._last_s >= _FRESH_S:
                self._last = self._ask()
                self._last_s = time.monotonic()
            return self._last

    def _ask(self) -> Reading | None:
        try:
            if self._client is None:
                self._client = Client(self._runtime_dir, timeout_s=_TIMEOUT_S)
            reading = take(self._client)
        except WeightdError as error:
            self._drop_client()  # its connections may be to a daemon that is no more
            self._tell(str(error))
            return None
        self._tell("")
        return reading

    def _tell(self, fault: str) -> None:
        """Log when it changes, not at each scrape."""
        if fault and not self._fault:
            log.warning("no answer from the daemon: %s", fault)
        elif self._fault and not fault:
            log.warning("the daemon answers again")
        self._fault = fault

    def _drop_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def fill(reading: Reading) -> list[Filled]:
    """All families, with what a reading says of them."""
    families = {name: family.empty() for name, family in FAMILIES.items()}
    for name, labels, value in samples(reading):
        family = families[name]
        assert not isinstance(family, HistogramMetricFamily)
        family.add_metric(labels, value)
    for name, labels, buckets, total in histograms(reading.counts):
        family = families[name]
        assert isinstance(family, HistogramMetricFamily)
        family.add_metric(labels, buckets, total)
    return list(families.values())
