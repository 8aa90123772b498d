"""Which models of this process take their working memory from one arena: what ModelGroup was told.

As upstream keeps it: by path, for the process's whole life.
"""

import os

_paths: set[str] = set()


def share(path: str) -> None:
    """Let models that are built from this file share."""
    _paths.add(os.path.realpath(path))


def is_shared(path: str) -> bool:
    return os.path.realpath(path) in _paths
