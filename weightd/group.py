"""MindSpore Lite's ModelGroup: models of one process that share weights, workspace, or both."""

import os
import threading
import weakref
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

from weightd import workspaces
from weightd.checks import check_instance
from weightd.context import Context
from weightd.model import Model, ModelType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weightd.backends.threads import Threads
    from weightd.config import BuildConfig
    from weightd.home import Home
    from weightd.master import Master


class ModelGroupFlag(Enum):
    """What the models of a group share."""

    SHARE_WEIGHT = 1
    SHARE_WORKSPACE = 2
    SHARE_WEIGHT_WORKSPACE = 3


class ModelGroup:
    """Models of this process that share.

    Weights: models of the group that are built from the same file hold its weights once, in memory
    that each of them maps, whatever threads each of them has. Workspace: models that are built from
    these paths, or, with SHARE_WEIGHT_WORKSPACE, of this group, take their working memory from one
    arena, which is as large as the largest of them needs, and not as all of them together.
    """

    def __init__(self, flags: ModelGroupFlag = ModelGroupFlag.SHARE_WORKSPACE) -> None:
        if not isinstance(flags, ModelGroupFlag):
            raise RuntimeError(
                "Parameter flags should be ModelGroupFlag.SHARE_WORKSPACE or "
                "ModelGroupFlag.SHARE_WEIGHT or ModelGroupFlag.SHARE_WEIGHT_WORKSPACE"
            )
        self._shares_weights = flags is not ModelGroupFlag.SHARE_WORKSPACE
        self._shares_workspace = flags is not ModelGroupFlag.SHARE_WEIGHT
        self._opening = threading.Lock()
        self._paths: list[str] = []
        self._models: list[Model] = []
        self._masters: weakref.WeakValueDictionary[tuple[int, int], Master] = (
            weakref.WeakValueDictionary()
        )

    def add_model(self, models: "Sequence[str] | Sequence[Model]") -> None:
        """Add models, before they are built: paths, to share working memory, or Model objects, to
        share weights.

        TypeError when they are neither; RuntimeError when there are none, when the group's flag is
        for the other kind, or when a Model is in a group already.
        """
        if not isinstance(models, list | tuple):
            raise TypeError(f"models must be list/tuple, but got {type(models)}")
        if not models:
            raise RuntimeError("models cannot be empty")
        kind = str if isinstance(models[0], str) else Model
        for number, model in enumerate(models):
            if not isinstance(model, kind):
                raise TypeError(
                    f"models element must be all str or Model, but got {type(model)} at index "
                    f"{number}."
                )
        if kind is str:
            self._add_paths([str(path) for path in models])
        else:
            self._add_models([model for model in models if isinstance(model, Model)])

    def cal_max_size_of_workspace(self, model_type: ModelType, context: Context) -> None:
        """Upstream's preparation of a shared workspace. Here the arena grows when it is used, so
        there is nothing to compute; only the arguments are checked. TypeError for a wrong type;
        RuntimeError when a path that was added is not there, or the group shares no workspace."""
        check_instance("context", context, Context)
        check_instance("model_type", model_type, ModelType)
        missing = [path for path in self._paths if not os.path.exists(path)]
        if missing or not self._shares_workspace:
            why = f"{missing[0]} does not exist" if missing else "the group shares no workspace"
            raise RuntimeError(f"ModelGroup's cal max size of workspace failed. Error is {why}")

    def _add_paths(self, paths: list[str]) -> None:
        if not self._shares_workspace:
            raise RuntimeError(
                "ModelGroup's add model failed. Error is paths share a workspace, and the group's "
                "flag is SHARE_WEIGHT: add Model objects"
            )
        self._paths += paths
        for path in paths:
            workspaces.share(path)

    def _add_models(self, models: list[Model]) -> None:
        if not self._shares_weights:
            raise RuntimeError(
                "ModelGroup's add model failed. Error is Model objects share weights, and the "
                "group's flag is SHARE_WORKSPACE: make it with ModelGroupFlag.SHARE_WEIGHT"
            )
        if any(model._group is not None for model in models) or len(set(models)) < len(models):
            raise RuntimeError(
                "ModelGroup's add model failed. Error is a Model can be in one group only"
            )
        for model in models:
            model._group = self
        self._models += models

    def home_of(self, path: str, threads: "Sequence[Threads]", settings: "BuildConfig") -> "Home":
        """Where a model of the group lives: beside the one that was built from the same file."""
        from weightd import home

        if self._shares_workspace:
            threads = [replace(each, shares_workspace=True) for each in threads]
        with self._opening:
            key = home.file_key(path)
            first = self._masters.get(key)
            if first is not None and first.is_open:
                found = home.attached(first, threads)
                if found.is_of(path):
                    return found
                found.close()  # the file was rewritten since
            found = home.shared_by_us(path, threads, settings, os.environ)
            assert found.master is not None
            self._masters[key] = found.master
            return found
