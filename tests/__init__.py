"""Tests: each one is a promise, kept by the real thing."""
