"""All that a run has going on: what is there from the start, and what may be done in between."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from random import Random

from weightd.stress.answers import prepared
from weightd.stress.findings import Findings
from weightd.stress.fuzzing import Fuzzing
from weightd.stress.hostile import Hostile
from weightd.stress.ledger import fault_of_answers
from weightd.stress.outages import Outages
from weightd.stress.plan import Plan
from weightd.stress.predictors import Predictors
from weightd.stress.publishing import Publishing
from weightd.stress.reuse import Reuse
from weightd.stress.stage import Stage
from weightd.stress.storms import Storms
from weightd.stress.victims import Victims
from weightd.stress.want import Want

Action = Callable[[Random], None]

# How often each action comes, in proportion, by scenario.
_SHARES: dict[str, dict[str, float]] = {
    "kill": {
        "kill daemon": 6,
        "kill daemon twice": 0.5,
        "kill worker": 0.5,
        "kill client": 1.5,
        "kill stager": 1.5,
    },
    "stop": {"stop daemon": 1, "stop worker": 1, "stop stager": 1},
    "storm": {"storm": 0.5},
    "want": {"load over the budget": 0.5, "few descriptors": 0.7},
    "hostile": {"hostile": 2},
    "fuzz": {"fuzz": 2},
    "reuse": {"reuse": 0.5},
}


class Crew:
    """Made on an ExitStack that ends all of it. shares: how often each of `actions` is to come."""

    def __init__(self, plan: Plan, stage: Stage, findings: Findings, stack: ExitStack) -> None:
        self._findings = findings
        known = prepared(stage.folder)
        self.publishing = Publishing(stage, known, findings, plan.seed)
        stack.callback(self.publishing.close)
        self.publishing.load()
        self.predictors = Predictors(stage, known, findings, plan.pause_s)
        stack.callback(self.predictors.close)
        self.predictors.start(plan.workers)
        self.outages = Outages(stage, findings, self.publishing)
        self._fuzzing = Fuzzing(stage, findings)
        stack.callback(self._fuzzing.close)
        self._storms = Storms(stage, findings, os.getuid(), plan.storm)
        stack.callback(self._storms.close)
        self._want = Want(stage, findings)
        stack.callback(self._want.close)
        self._reuse = Reuse(stage, findings)
        stack.callback(self._reuse.close)
        self._victims = Victims(stage, findings)
        self._hostile = Hostile(stage.runtime, findings)
        chosen = plan.scenarios & _SHARES.keys()
        self.shares = {action: n for name in chosen for action, n in _SHARES[name].items()}

    def actions(self) -> dict[str, Action]:
        return {
            "kill daemon": self.outages.kill,
            "kill daemon twice": self.outages.kill_at_once,
            "stop daemon": self.outages.stop,
            "kill worker": self.predictors.kill_one,
            "stop worker": self.predictors.stop_one,
            "kill client": lambda _: self.publishing.kill_client(),
            "kill stager": self._victims.kill_stager,
            "stop stager": self._victims.stop_stager,
            "storm": self._storms.blow,
            "load over the budget": self._want.of_memory,
            "few descriptors": self._want.of_descriptors,
            "hostile": self._hostile.attack,
            "reuse": self._reuse.recycle,
            "fuzz": self._fuzzing.burst,
        }

    def check_all_is_well(self) -> None:
        """While nothing new is asked for: every worker is back, on the live version, and every
        answer was of a version that it may be of."""
        with self.publishing.paused():
            self.predictors.check_all_returned()
            self.publishing.check()

    def check_answers(self) -> None:
        """Each answer that was seen is of a version that it may be of."""
        answers, weights = self.predictors.answers, self.publishing.ledger.now.weights
        for fault in fault_of_answers(dict(answers), weights):
            self._findings.violated(fault)
