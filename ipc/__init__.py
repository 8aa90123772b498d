"""Moves bytes, file descriptors and identities between processes. Knows no models."""
