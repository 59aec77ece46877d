"""How state machines are run: the same examples each time, or, in the long form, many others from a seed that is told.

`MACHINE_SEED` repeats a long run, `MACHINE_EXAMPLES` says how far it looks. With `MACHINE_SHRINK` a counterexample is made short, for up to five minutes (give pytest
`-o faulthandler_timeout=900`); else it is told as it was found. It becomes a test of its own, so nothing is kept between runs.
"""

import os
import random
import time
from collections.abc import Callable
from typing import cast

import hypothesis
from hypothesis import Phase
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.faults.finding import Finding


class Machines:
    """Runs machines for one test."""

    def __init__(self, finding: Finding, *, is_long: bool) -> None:
        self._finding = finding
        self._is_long = is_long

    def run(
        self, what: str, machine: Callable[[], RuleBasedStateMachine], *, short: int, long: int, steps: int
    ) -> None:
        """So many examples of at most so many steps. Raises: what the machine finds."""
        examples = int(os.environ.get("MACHINE_EXAMPLES") or (long if self._is_long else short))
        settings = hypothesis.settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=not self._is_long,
            print_blob=False,
            phases=[Phase.generate, *([Phase.shrink] if os.environ.get("MACHINE_SHRINK") else [])],
            report_multiple_bugs=False,  # one is mended at a time, and each takes its time to be made short
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        self._finding.about(
            "machine", f"{what} does as its model, whatever is done to it", f"up to {steps} steps an example"
        )
        began_s = time.monotonic()
        if self._is_long:
            seed = int(os.environ.get("MACHINE_SEED") or random.getrandbits(32))
            self._finding.say(f"MACHINE_SEED={seed}")
            self._finding.seed = str(seed)
            machine = _seeded(machine, seed)
        run_state_machine_as_test(cast("type[RuleBasedStateMachine]", machine), settings=settings)
        self._finding.struck(examples)
        self._finding.measured("took", time.monotonic() - began_s)


def _seeded(machine: Callable[[], RuleBasedStateMachine], seed: int) -> Callable[[], RuleBasedStateMachine]:
    """As `hypothesis.seed` does for tests."""

    def make() -> RuleBasedStateMachine:
        return machine()

    make._hypothesis_internal_use_seed = seed  # type: ignore[attr-defined]
    return make
