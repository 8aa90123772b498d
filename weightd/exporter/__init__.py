"""The process that Prometheus scrapes: it asks the daemon, so that the daemon need not speak HTTP.

families.py    which metrics there are
samples.py     a reading of the daemon as their values
collector.py   asks the daemon, for prometheus_client, whose only importers are here
sockets.py     where it listens: its own sockets, or those that systemd hands over
server.py      HTTP, for few at once and not for long
"""
