"""The findings of a run as a table in Markdown: `pytest --long tests/faults --report tests/faults/README.md`.

Owns the page's form, and the list of faults that other folders' tests hold.
"""

import os
import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from tests.faults.finding import Row

HELD_ELSEWHERE = (
    ("F21", "agent process dies on a task: `failed`, once, no second run; `redeliver`: up to `max_attempts`",
     ("contract/test_task_delivery.py: `test_a_registration_after_sending_fails_tasks_that_may_have_run`,"
     " `test_tasks_are_redelivered_to_a_new_process_where_that_is_wished`")),
    ("F23", "running task, its agent never returns: `failed`, 1004, once, at its due time",
     ("contract/test_task_delivery.py: `test_a_task_whose_result_never_comes_fails_at_its_due_time`; integration/test_mailbox.py:"
     " `test_the_task_of_an_agent_that_never_returns_ends_at_its_time_after_that_was_heard`,"
     " `test_what_many_routers_end_at_once_ends_once`")),
    ("F25", "hours later: how long an ended task and its log lines are remembered",
     ("contract/test_agent_messages.py: `test_ended_tasks_are_remembered_for_25_h`,"
     " `test_log_lines_of_a_task_that_ended_over_15_min_ago_are_acked_and_dropped`")),
    ("F26", "the warning names both hosts",
     "contract/test_handshake.py: `test_a_fourth_takeover_in_30_s_is_held_off_with_one_warning_that_names_both_hosts`"),
)  # fmt: skip
_HEAD = ("#", "fault", "load", "Redis", "n: tasks", "strikes", "kills", "inputs", "lost", "doubled", "otherwise wrong", "falsely offline",
         "measured (asked)", "took", "seed", "outcome")  # fmt: skip


def page(found: Iterable[Row], *, is_long: bool, command: str) -> str:
    """The whole file."""
    rows = sorted((row for row in found if row.number), key=_place)
    form = "long" if is_long else "short"
    return "\n".join(
        [
            "# What was done to the cluster, and what became of it",
            "",
            (
                f"The {form} form, as tests/faults/conftest.py says, with `--report`: {os.cpu_count()} CPUs,"
                f" Python {platform.python_version()}, {platform.system()} {platform.release()}; commit {_commits(rows)}. Runs add up: a row"
                f" is its test's last. The last run was `{command}`, on {datetime.now(UTC):%Y-%m-%d}."
            ),
            "",
            *_sums(rows),
            "",
            (
                "Lost: accepted and without an end, or acked and not in its feed. Doubled: two ends, two entries, two runs. Falsely offline:"
                " declared offline while connected. Strikes: how often the fault was done; kills: processes ended by `kill -9`. Inputs: what"
                " was sent or given to a decoder, wrong in some way. n and the median stand beside the worst where something was measured again"
                " and again. Where the fault does not concern Redis, one version stands for both."
            ),
            "",
            *_table(_HEAD, [_cells(row) for row in rows]),
            "",
            "Held by tests elsewhere, which are not repeated here:",
            "",
            *_table(("#", "what", "where"), HELD_ELSEWHERE),
            "",
        ]
    )


def _sums(rows: Sequence[Row]) -> list[str]:
    """A table of what there was in all, for each version of Redis."""
    versions = sorted({row.redis for row in rows if row.redis})
    groups = [
        *((f"Redis {version}", [row for row in rows if row.redis == version]) for version in versions),
        ("without Redis", [row for row in rows if not row.redis]),
        ("**in all**", rows),
    ]
    head = ("", "tests", "not passed", "tasks", "strikes", "kills", "inputs", "lost", "doubled", "otherwise wrong",
            "falsely offline", "took")  # fmt: skip
    return _table(head, [_sum(name, group) for name, group in groups if group])


def _sum(name: str, rows: Sequence[Row]) -> Sequence[str]:
    counts = (
        len(rows), sum(row.outcome != "passed" for row in rows), sum(row.tasks for row in rows), sum(row.strikes for row in rows),
        sum(row.kills for row in rows), sum(row.inputs for row in rows), sum(row.lost for row in rows),
        sum(row.doubled for row in rows), sum(row.otherwise_wrong for row in rows), sum(row.falsely_offline for row in rows),
    )  # fmt: skip
    return (name, *(f"{count:,}" for count in counts), f"{sum(row.took_s for row in rows) / 60:.1f} min")


def _commits(rows: Sequence[Row]) -> str:
    """Which one, or which ones and how many rows of each."""
    counts = Counter(row.commit or "unknown" for row in rows)
    return ", ".join(commit if len(counts) == 1 else f"{commit} ({count} rows)" for commit, count in counts.items())


def _place(row: Row) -> tuple[bool, int, str, str, str]:
    number = row.number.removeprefix("F")
    return (not number.isdigit(), int(number) if number.isdigit() else 0, row.number, row.fault, row.redis)


def _cells(row: Row) -> Sequence[str]:
    zeros = [
        str(n) if row.is_judged else "-" for n in (row.lost, row.doubled, row.otherwise_wrong, row.falsely_offline)
    ]
    counts = (f"{n:,}" for n in (row.tasks, row.strikes, row.kills, row.inputs))
    measures = "<br>".join(row.figures())
    return (
        row.number,
        row.fault,
        row.load,
        row.redis,
        *counts,
        *zeros,
        measures,
        f"{row.took_s:.0f} s",
        row.seed,
        row.outcome,
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
