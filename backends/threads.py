"""How a session runs: with how many threads, on which cores, and in whose working memory."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Threads:
    """count: for one operator, the thread that calls run() included. operators: how many operators
    may run side by side. cores: the processors that the threads are bound to, from the first one on
    and around again; () leaves that to the kernel. shares_workspace: its working memory comes from
    an arena of all sessions of the process that say so, instead of one of its own. takes_turns: one
    run at a time, where otherwise each thread that asks may run."""

    count: int = 1
    operators: int = 1
    cores: tuple[int, ...] = ()
    shares_workspace: bool = False
    takes_turns: bool = False

    @property
    def is_lone(self) -> bool:
        """Whether a session makes no thread of its own."""
        return self.count == 1 and self.operators == 1

    @property
    def affinities(self) -> str:
        """The cores as onnxruntime wants them: one entry for each of its own threads, counted from
        1. '' when there is nothing to bind."""
        if not self.cores:
            return ""
        own = range(1, self.count)
        return ";".join(str(self.cores[n % len(self.cores)] + 1) for n in own)

    @contextmanager
    def building(self) -> Iterator[None]:
        """Have threads that begin while this lasts on the cores, whoever starts them."""
        with _on(set(self.cores)):
            yield

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Have the calling thread on its core while this lasts: it is not the session's, and goes
        back to where it was."""
        with _on(set(self.cores[:1])):
            yield


@contextmanager
def _on(cores: set[int]) -> Iterator[None]:
    """The calling thread on these cores; on none in particular where there are none."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)  # 0: of this thread alone
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


ONE = Threads()
