"""Brings many runs to their ends, several at a time: what is finished is not repeated, what failed stops
nothing.

`carry_out` is the whole of it. The state is in the directories of the runs alone, so a driver that was killed
is continued by another one, which waits for the runs that still work.
"""

import collections
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advtf.errors import UsageError, disk_full, first_line, quantity
from advtf.processes import last_lines, signals_received
from launch.common.live import LiveTable, duration
from launch.common.runs import Run, was_killed

POLL_SECONDS = 0.2
SHOWN_LINES = 8  # of the log of a failed run


@dataclass
class Outcome:
    """How far a run has come.

    Attributes:
        run: the run.
        state: "waiting", "running", "busy" (a process that the driver did not start works on it), "finished",
            "failed" or "stopped".
        reason: why it failed, in a few words.
        attempts: how often the driver has started it.
        seconds: of all its attempts.
    """

    run: Run
    state: str = "waiting"
    reason: str = ""
    attempts: int = 0
    seconds: float = 0.0
    _began: float = 0.0
    _attempt: Any = None

    @property
    def working(self) -> bool:
        """Whether the driver has an attempt that lasts."""
        return self._attempt is not None

    @property
    def elapsed(self) -> float:
        """Seconds of its attempts until now."""
        return self.seconds + (time.monotonic() - self._began if self.working else 0.0)

    @property
    def share(self) -> float:
        """How much of the run is done, from 0 to 1."""
        if self.state in ("finished", "failed"):
            return 1.0
        return min(0.99, self.run.epochs_done() / self.run.epochs) if self.run.epochs else 0.0


class Interrupted(Exception):
    """A signal has stopped the driver; the runs have saved what they had.

    Attributes:
        signal: the number of the signal.
        at_once: whether a second one came, so that nothing was waited for.
    """

    def __init__(self, number: int, at_once: bool):
        super().__init__(signal.Signals(number).name)
        self.signal, self.at_once = number, at_once


def carry_out(
    runs: Sequence[Run],
    executor: Any,
    *,
    retries: int = 0,
    skip_finished: bool = True,
    ended: Callable[[Outcome], str] = lambda outcome: "",
) -> list[Outcome]:
    """Finishes all runs that are not finished yet.

    Args:
        runs: the runs, in the order in which they are started; each after those that it needs, which may
            be among them.
        executor: one of `launch.common.executors`.
        retries: how often a run is continued that a signal has ended, such as that of a machine without
            memory.
        skip_finished: whether a finished run is not started; else its command is asked, which compares
            settings.
        ended: called when a run is finished or has failed; returns what its line says about it.

    Returns:
        How each of them ended.

    Raises:
        Interrupted: by Ctrl-C or SIGTERM. The first one stops every run after it has saved a checkpoint, and
            is waited for; the second one ends them at once.
    """
    outcomes = [Outcome(run, "finished" if skip_finished and run.finished() else "waiting") for run in runs]
    table = LiveTable(outcomes)
    with signals_received() as signals, table:
        try:
            _work(outcomes, executor, retries, ended, table, signals)
        except BaseException:
            for outcome in outcomes:
                if outcome.working:
                    outcome._attempt.stop(True)
            raise
    return outcomes


def _work(outcomes, executor, retries, ended, table, signals):
    answered = 0  # signals
    while True:
        for outcome in filter(lambda each: each.working, outcomes):
            _look(outcome, retries, ended, table, bool(signals))
        if len(signals) > answered:
            answered = len(signals)
            _stop(outcomes, table, signals)
        if not signals:
            _start(outcomes, executor, table, ended)
        states = count_states(outcomes)
        if not any(states[state] for state in ("waiting", "running", "busy", "stopped")):
            return
        if signals and not any(_saves(outcome) for outcome in outcomes):
            raise Interrupted(signals[0], at_once=False)
        table.draw()
        time.sleep(POLL_SECONDS)


def _saves(outcome):
    """Tells whether a run still works; its process on a cluster may outlive the attempt by a few seconds."""
    return outcome.working or (outcome.state == "stopped" and outcome.run.in_use())


def _stop(outcomes, table, signals):
    at_once = len(signals) > 1
    working = [outcome for outcome in outcomes if outcome.working]
    for outcome in working:
        outcome._attempt.stop(at_once)
    if at_once:
        raise Interrupted(signals[0], at_once=True)
    table.say(
        f"{signal.Signals(signals[0]).name}: {len(working)} running, which save a checkpoint and stop. "
        "Once more: they end at once."
    )


def _start(outcomes, executor, table, ended):
    room = executor.room()
    states = {outcome.run.path: outcome.state for outcome in outcomes}
    for outcome in outcomes:
        if room <= 0 or outcome.state not in ("waiting", "busy"):
            continue
        run = outcome.run
        unfinished = [path for path in run.after if states.get(path, "finished") != "finished"]
        failed = [path for path in unfinished if states[path] == "failed"]
        if failed:
            _end(outcome, "failed", f"needs {Path(failed[0]).name}, which has failed", table, ended)
            states[run.path] = outcome.state
            continue
        if unfinished:
            continue
        if run.in_use():
            if outcome.state != "busy":
                outcome.state = "busy"
                table.say(f"waiting for    {run.name}, which another process works on")
            continue
        if outcome.state == "busy" and run.finished():  # by that process
            _end(outcome, "finished", "", table, ended)
            continue
        room -= 1
        _start_one(outcome, executor, table, ended)


def _start_one(outcome, executor, table, ended):
    run = outcome.run
    try:
        command = run.command()
        outcome._attempt = executor.start(run, command)
    except (UsageError, OSError) as error:
        full = disk_full(error, run.log)
        _end(outcome, "failed", first_line(full or error), table, ended)
        return
    outcome.state, outcome._began = "running", time.monotonic()
    outcome.attempts += 1
    table.say(f"{'continued' if command[-1] == '--resume' else 'started':<15}{run.name}")


def _look(outcome, retries, ended, table, stopping):
    code = outcome._attempt.code()
    if code is None:
        return
    outcome.seconds, outcome._attempt = outcome.elapsed, None
    if code == 0:
        _end(outcome, "finished", "", table, ended)
    elif stopping and was_killed(code):
        outcome.state = "stopped"
    elif was_killed(code) and outcome.attempts <= retries:
        outcome.state = "waiting"
        table.say(f"killed         {outcome.run.name} ({_name_of(code)}), to be continued")
    else:
        reason = f"killed by {_name_of(code)}" if was_killed(code) else f"exit code {code}"
        _end(outcome, "failed", reason, table, ended)


def _end(outcome, state, reason, table, ended):
    outcome.state, outcome.reason = state, reason
    said = ended(outcome)
    if state == "failed":
        said = reason
    table.say(f"{state:<15}{outcome.run.name:<{table.width}}{duration(outcome.seconds):>10}  {said}".rstrip())
    if state == "failed":
        for line in last_lines(outcome.run.log, SHOWN_LINES):
            table.say(f"    | {line}")


def _name_of(code):
    number = -code if code < 0 else code - 128
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def end_by(interrupted: Interrupted, continuation: str) -> None:
    """Says how a driver that a signal has stopped is continued, and exits with 128 + its number.

    Args:
        interrupted: what `carry_out` has raised.
        continuation: the command.
    """
    saved = "Ended at once" if interrupted.at_once else "Stopped"
    print(f"{saved} by {interrupted}. Continue with: {continuation}", flush=True)
    if interrupted.at_once:  # whatever still waits for something, such as a thread of Ray, does not
        os._exit(128 + interrupted.signal)
    sys.exit(128 + interrupted.signal)


def exit_if_failed(outcomes: Sequence[Outcome]) -> None:
    """Says which runs have failed and exits with 1, if any has."""
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if failed:
        print(f"\n{quantity(len(failed), 'run')} of {len(outcomes)} failed; the same command tries again:")
        for outcome in failed:
            print(f"  {outcome.run.name}: {outcome.reason}; {outcome.run.log}")
        sys.exit(1)


def count_states(outcomes: Sequence[Outcome]) -> collections.Counter:
    """Returns how many runs are in which state."""
    return collections.Counter(outcome.state for outcome in outcomes)
