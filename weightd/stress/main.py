"""The order of things in a run: start, a walk through random steps, a look at what is left."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from random import Random

from weightd.demo.interruption import Signals
from weightd.demo.process import DemoError
from weightd.errors import BrokenPeerError
from weightd.stress.answers import prepared
from weightd.stress.crew import Crew
from weightd.stress.findings import Findings
from weightd.stress.fuzzing import Fuzzing
from weightd.stress.leaks import Left
from weightd.stress.outages import Outages, beyond_interpreter
from weightd.stress.plan import Plan
from weightd.stress.schedule import steps
from weightd.stress.stage import Stage

Say = Callable[[str], object]

_LONGEST_PAUSE_S = 0.2
_SAY_S = 1.0


def run(plan: Plan, say: Say) -> Findings:
    """Carry it out, and return what was found. A step that fails is a violation."""
    findings = Findings(plan.seed)
    started_s = time.monotonic()
    with Signals() as signals, ExitStack() as stack, signals.raised():
        say("starting")
        try:
            _run(plan, findings, Stage(stack, signals), say)
        except (DemoError, BrokenPeerError) as error:
            findings.violated(f"the run ended: {type(error).__name__}: {error}")
    findings.seconds = time.monotonic() - started_s
    return findings


def _run(plan: Plan, findings: Findings, stage: Stage, say: Say) -> None:
    with stage.client() as client:
        client.load("warm", prepared(stage.folder).model)
        client.unload("warm")
    left = Left(stage, findings)
    if plan.frames is not None:
        _only_fuzz(plan, findings, stage, say)
    else:
        walk(plan, findings, stage, say)
    say("looking for what is left")
    left.check()
    if count := stage.tracebacks():
        findings.violated(f"the daemon logged {count} tracebacks")
    beyond_interpreter(findings)


def walk(plan: Plan, findings: Findings, stage: Stage, say: Say) -> None:
    """Everything that the plan has, in an order that its seed gives, as often as it says."""
    with ExitStack() as stack:
        crew = Crew(plan, stage, findings, stack)
        actions = crew.actions()
        has_time = _clock(plan, findings, say)
        if "publish" in plan.scenarios:
            crew.publishing.start()
        for step in steps(plan.seed, crew.shares, _LONGEST_PAUSE_S):
            if not has_time() or crew.outages.kills == plan.kills:
                break
            time.sleep(step.pause_s)
            if step.action:
                actions[step.action](Random(step.seed))
            crew.predictors.read()
        crew.outages.check_unharmed("at the end of the run")
        say("waiting for all workers to be back")
        crew.check_all_is_well()
    crew.check_answers()


def _only_fuzz(plan: Plan, findings: Findings, stage: Stage, say: Say) -> None:
    """Nothing else goes on, so that the daemon's memory can be looked at."""
    outages = Outages(stage, findings, None)
    with ExitStack() as stack:
        fuzzing = Fuzzing(stage, findings)
        stack.callback(fuzzing.close)
        fuzzing.all_of_them(plan.frames or 0, plan.seed, _clock(plan, findings, say))
    outages.check_unharmed("under fuzz")


def _clock(plan: Plan, findings: Findings, say: Say) -> Callable[[], bool]:
    """Whether there is time left; says how things are now and then."""
    ends_s = time.monotonic() + plan.seconds if plan.seconds else float("inf")
    said_s = 0.0

    def has_time() -> bool:
        nonlocal said_s
        now_s = time.monotonic()
        if now_s > said_s + _SAY_S:
            said_s = now_s
            say(findings.line())
        return now_s < ends_s

    return has_time
