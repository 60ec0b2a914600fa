"""Carries out a table of trainings, several at a time, and compares what they have found.

python -m launch.sweep TABLE.toml                      on this machine: a run for each core or GPU at a time
python -m launch.sweep TABLE.toml --dry_run            check the table, not the data, and print the runs
python -m launch.sweep TABLE.toml --cluster=HOST:6379  on a Ray cluster

Every run is ``python -m advtf.main`` in a directory of its own, which is its state: the same command finishes
what was stopped, killed or has failed, and repeats nothing. What a table looks like is said in
docs/guides/growing.md.
"""

import dataclasses
import json
import shlex
import sys
from pathlib import Path

from absl import flags

from advtf.errors import UsageError, quantity
from advtf.settings import commands
from advtf.settings.fields import Settings, setting, switch, text
from advtf.storage.files import provenance, write_atomically, write_json
from advtf.storage.run_directory import hold
from launch.common import driver
from launch.common.executors import WorkOptions
from launch.sweep import results, table
from launch.sweep.table import Sweep

RECORD = "sweep.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepOptions(Settings):
    """Which table is carried out, and with which data."""

    table: str | None = setting("sweep", text(), "the table of runs (TOML); its name can be left out", None)
    data_dir: str | None = setting("sweep", text(), "folder of prepared data of every run", None)
    dry_run: bool = setting("sweep", switch(), "check the table, print the runs and end", False)


def main(argv: list[str]) -> None:
    """Carries out a sweep; exits with 2 for a mistake, 1 where runs have failed, 128 + n by signal n."""
    del argv
    options, work = (cls.of(commands.given_flags(flags.FLAGS, cls)) for cls in (SweepOptions, WorkOptions))
    if options.table is None:
        raise UsageError("the table must be given. Received: none. Use python -m launch.sweep TABLE.toml.")
    sweep = table.read(options.table, options.data_dir, there=not options.dry_run)
    if options.dry_run:
        for one in sweep.runs:
            print(f"python -m advtf.main --out_dir={shlex.quote(one.run.path)} {shlex.join(one.run.flags)}")
        return
    with hold(sweep.out_dir):
        _record(sweep, work.threads)
        _carry_out(sweep, work)


def _carry_out(sweep: Sweep, work: WorkOptions) -> None:
    states = {one.run.path: "finished" if one.run.finished() else "unfinished" for one in sweep.runs}
    by_path = {one.run.path: one for one in sweep.runs}

    def ended(outcome):
        states[outcome.run.path] = outcome.state
        numbers = results.numbers_of(by_path[outcome.run.path])
        results.write_csv(sweep, states)
        return results.in_words(numbers) if numbers else ""

    executor = work.executor()
    kept = sum(state == "finished" for state in states.values())
    print(f"{'table':<10}{sweep.table}, {quantity(len(states), 'run')}, finished before: {kept}")
    print(f"{'output':<10}{sweep.out_dir}\n{'work':<10}{executor.describe()}\n", flush=True)
    try:
        outcomes = driver.carry_out(
            [one.run for one in sweep.runs], executor, retries=work.retries, ended=ended
        )
    except driver.Interrupted as interrupted:
        driver.end_by(interrupted, shlex.join(["python", "-m", "launch.sweep", *sys.argv[1:]]))
    finally:
        executor.close()
    _conclude(sweep, states, outcomes)


def _record(sweep: Sweep, threads: int) -> None:
    """Writes what was asked for; the number of threads, which the bits of the runs depend on, must not
    change."""
    path = sweep.out_dir / RECORD
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["threads"]
    except (OSError, ValueError, LookupError, TypeError):
        before = threads
    if before != threads:
        raise UsageError(
            f"the runs of a sweep must all have as many threads: threads={before} in {path}. "
            f"Received: threads={threads}. Leave it as it was, or choose another out_dir."
        )
    runs = [{"directory": one.run.path, "axes": one.axes, "seed": one.seed} for one in sweep.runs]
    write_json(path, provenance() | {"table": str(sweep.table), "threads": threads, "runs": runs})


def _conclude(sweep, states, outcomes):
    means = results.mean_table(sweep)
    written: list[Path] = [results.write_csv(sweep, states), sweep.out_dir / "results.md"]
    write_atomically(written[1], lambda file: file.write(f"{means}\n".encode()))
    written.append(results.write_hparams(sweep))
    print(f"\nError in %, mean ± standard deviation over seeds\n\n{means}")
    print("\nWrote " + "\n      ".join(map(str, written)))
    driver.exit_if_failed(outcomes)


if __name__ == "__main__":
    commands.run_command(main, SweepOptions, WorkOptions, positional="table")
