"""Engines that run a graph over an attached version."""
