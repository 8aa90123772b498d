"""The service as an operator gets it, on a Debian that boots with the real systemd."""
