"""Reproduces the tables, figures and claims of both papers, and says of every claim whether it holds.

python -m launch.reproduce --list                         what there is, and what it will cost
python -m launch.reproduce --scale=smoke                  everything in minutes: does it run?
python -m launch.reproduce --only=table1 --seeds=3        tables 1 of both papers, three seeds, on 2 CPU cores
python -m launch.reproduce --scale=full --cluster=HOST:6379 --gpus=1
python -m launch.reproduce --report                       the page of all results, from the stored ones

A run is one command of advtf with a directory of its own in --out_dir, which is its state: what is finished
is not repeated, and the same command continues what was stopped or killed. Entries share runs with equal
settings. Results are kept in --ledger, as soon as all runs of an entry with a seed have ended; those of
smoke, whose numbers say nothing, stay in --out_dir.
"""

import dataclasses
import shlex
import sys
import traceback
from pathlib import Path

from absl import flags

from advtf.errors import DiskFull, UsageError, first_line, quantity
from advtf.settings import commands
from advtf.settings.fields import Settings, choice, setting, switch, text, texts, whole
from advtf.storage.run_directory import hold
from launch.common import driver
from launch.common.executors import WorkOptions
from launch.common.live import duration
from launch.reproduce import cost, ledger, report, verdicts
from launch.reproduce.entry import Entry
from launch.reproduce.plan import Plan, Planned
from launch.reproduce.registry import ENTRIES, PAPERS, choose
from launch.reproduce.scales import SCALES

DOCUMENTED = Path("docs/results/ledger"), Path("docs/results.md")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReproduceOptions(Settings):
    """What is reproduced, at which scale, and where it is kept."""

    list: bool = setting("what", switch(), "print the entries with their cost, and end", False)
    paper: str | None = setting("what", choice(PAPERS), "entries of one paper only", None)
    only: tuple[str, ...] = setting(
        "what",
        texts("entries"),
        "entries with commas between, carried out in this order; table1 means all tables 1 of both papers, "
        "liu2020-table1 of one",
        (),
    )
    scale: str | None = setting("what", choice(SCALES), "size of the runs", None, "mini")
    seeds: int = setting("what", whole(1), "number of seeds, from 0 on", 1)
    report: bool = setting("what", switch(), "only write the page and its figures from --ledger", False)
    dry_run: bool = setting("what", switch(), "print the commands of the runs, and end", False)

    data_dir: str | None = setting("files", text(), "folder of prepared data of every run", None)
    out_dir: str | None = setting("files", text(), "folder of the runs; default runs/reproduce-<scale>", None)
    ledger: str | None = setting(
        "files", text(), "folder of the results; default docs/results/ledger, of smoke <out_dir>/ledger", None
    )
    page: str | None = setting(
        "files",
        text(),
        "page that --report writes; default docs/results.md, of smoke <out_dir>/results.md",
        None,
    )

    def places(self) -> tuple[Path, Path]:
        """Returns the folder of the results and the page, by default those of the documentation.

        A scale that the page does not show, which is smoke, has its own beside its runs.
        """
        ledger, page = DOCUMENTED
        if self.scale and self.scale not in report.SHOWN:
            folder = Path(self.folder())
            ledger, page = folder / "ledger", folder / "results.md"
        return Path(self.ledger or ledger), Path(self.page or page)

    def folder(self) -> str:
        """Returns the folder of the runs."""
        return self.out_dir or f"runs/reproduce-{self.scale or 'mini'}"

    def to_report(self) -> str:
        """Returns the command that writes the page of these results."""
        names = ("ledger", "page")
        if self.scale and self.scale not in report.SHOWN:
            names = ("scale", "out_dir", *names)
        given = [f"--{name}={getattr(self, name)}" for name in names if getattr(self, name)]
        return shlex.join(["python", "-m", "launch.reproduce", "--report", *given])


def main(argv: list[str]) -> None:
    """Carries out what was chosen; exits with 2 for a mistake, 1 where runs have failed, 128 + n by a
    signal."""
    del argv
    options = ReproduceOptions.of(commands.given_flags(flags.FLAGS, ReproduceOptions))
    work = WorkOptions.of(commands.given_flags(flags.FLAGS, WorkOptions))
    entries = choose(options.paper, options.only)
    folder, page = options.places()
    if options.report:
        for path in report.write(folder, page, options.scale):
            print(path)
        return
    scale = SCALES[options.scale or "mini"]
    plan = Plan(scale, options.folder(), options.data_dir)
    wanted = _planned(plan, entries, options.seeds)
    if options.list:
        for line in _listed(plan, entries, options.seeds, folder):
            print(line)
        return
    if options.dry_run:
        for planned in plan.needed(one for group in wanted.values() for one in group.values()):
            run = plan.run(planned)
            words = [f"--out_dir={run.path}", *run.flags]
            print(f"python -m advtf.{run.kind.command} {shlex.join(words)}")
        return
    with hold(plan.out_dir):
        outcomes, damaged = _carry_out(plan, wanted, folder, work)
        _conclude(plan, wanted, folder, outcomes, options.to_report())
        if damaged:
            _say_damage(damaged)
        driver.exit_if_failed(outcomes)
        if damaged:
            sys.exit(1)


def _planned(plan: Plan, entries: list[Entry], seeds: int) -> dict[tuple[Entry, int], dict[str, Planned]]:
    """Returns the runs by entry and seed. All entries are asked, as they may want more of the same runs."""
    found = {}
    for entry in ENTRIES:
        if entry.key in plan.scale.without:
            continue
        for seed in range(seeds if entry.seeded else 1):
            found[entry, seed] = plan.of(entry, seed)
    return {pair: found[pair] for entry in entries for pair in found if pair[0] is entry}


def _listed(plan: Plan, entries: list[Entry], seeds: int, folder: Path):
    several = quantity(seeds, "seed")
    yield f"{'entry':<26}{'runs':>5}  {'measured, time':<22}{'cost of ' + several:<36}what"
    counted: dict[str, Planned] = {}
    for entry in entries:
        reason = plan.scale.without.get(entry.key)
        if reason:
            yield f"{entry.key:<26}{'–':>5}  {'–':<22}{'not at this scale':<36}{entry.title}"
            continue
        count = seeds if entry.seeded else 1
        own = plan.needed(one for seed in range(count) for one in plan.of(entry, seed).values())
        counted |= {one.name: one for one in own}
        told = cost.told(cost.of(plan, own), plan.scale.name)
        yield f"{entry.key:<26}{len(own):>5}  {_known(plan, entry, folder):<22}{told:<36}{entry.title}"
    whole = cost.told(cost.of(plan, counted.values()), plan.scale.name)
    yield f"{'all, shared runs once':<26}{len(counted):>5}  {'':<22}{whole}"
    yield cost.source(plan.scale.name)


def _known(plan, entry, folder):
    """Returns of how many seeds there are results, in what time, and whether with the settings of now."""
    found = ledger.read(folder, plan.scale.name, entry).seeds
    current = [ledger.is_current(plan, entry, seed, record) for seed, record in found.items()]
    if not found:
        return "–"
    seconds = sum(run["seconds"] or 0.0 for record in found.values() for run in record["runs"])
    return f"{quantity(len(found), 'seed')}, {duration(seconds)}" + ("" if all(current) else ", outdated")


def _carry_out(plan: Plan, wanted: dict, folder: Path, work: WorkOptions):
    """Returns the outcomes of the runs, and (entry, seed) -> why it could not be measured."""
    notes = ledger.Notes(plan.out_dir)
    for entry, _ in wanted:
        ledger.read(folder, plan.scale.name, entry)  # a damaged file is refused before hours of work
    runs = [plan.run(one) for one in plan.needed(one for group in wanted.values() for one in group.values())]
    ended = {run.path for run in runs if run.finished()}
    written: set[tuple[Entry, int]] = set()
    damaged: dict[tuple[Entry, int], Exception] = {}

    def write_whole():
        """Writes every entry whose runs have all ended; returns what could not be measured, in words."""
        told = []
        for (entry, seed), group in wanted.items():
            paths = {plan.path(one.name) for one in group.values()}
            if (entry, seed) in written or not paths <= ended:
                continue
            written.add((entry, seed))
            try:
                record = ledger.measured_record(plan, entry, group, notes)
            except DiskFull:
                raise
            except Exception as error:  # a damaged file of one run must not end the work of others
                damaged[entry, seed] = error
                told.append(f"{entry.key}, seed {seed}, cannot be measured: {first_line(error)}")
            else:
                ledger.update(folder, plan, entry, seed, record)
        return "; ".join(told)

    def on_end(outcome):
        ended.add(outcome.run.path)
        notes.add_seconds(outcome.run.name, outcome.seconds)
        return write_whole()

    executor = work.executor()
    print(f"{'scale':<10}{plan.scale.name}, {len(wanted)} pairs of an entry and a seed")
    print(f"{'runs':<10}{len(runs)}, finished before: {len(ended)}\n{'output':<10}{plan.out_dir}")
    print(f"{'work':<10}{executor.describe()}")
    _tell_threads(notes, [run for run in runs if run.path in ended], work.threads)
    print(flush=True)
    notes.add_threads([run for run in runs if run.path not in ended and not run.in_use()], work.threads)
    try:
        if told := write_whole():
            print(told, flush=True)
        outcomes = driver.carry_out(runs, executor, retries=work.retries, ended=on_end)
    except driver.Interrupted as interrupted:
        driver.end_by(interrupted, shlex.join(["python", "-m", "launch.reproduce", *sys.argv[1:]]))
    finally:
        executor.close()
    return outcomes, damaged


def _tell_threads(notes, finished, threads):
    others = [found for run in finished if (found := notes.threads(run)) not in ([], [threads])]
    if others:
        numbers = sorted({number for found in others for number in found})
        print(
            f"{'threads':<10}{quantity(len(others), 'finished run')} had {' or '.join(map(str, numbers))}, "
            f"the others get {threads}: the last digits depend on it. To have all alike, choose "
            "--threads as before, or another --out_dir"
        )


def _conclude(plan, wanted, folder, outcomes, to_report):
    for entry in dict.fromkeys(entry for entry, _ in wanted):
        print(f"\n{entry.title} ({entry.key})")
        measured = ledger.read(folder, plan.scale.name, entry).measured
        for claim in entry.claims:
            found = verdicts.decide(claim.judge, measured)
            print(f"  {found.result}: {claim.text} {verdicts.describe(found)}")
            for reason in found.reasons:
                print(f"      {reason}")
    taken = sum(outcome.seconds for outcome in outcomes)
    print(f"\nRuns took {duration(taken)} in all. The page of all results: {to_report}")


def _say_damage(damaged):
    """Says which entries could not be measured, and why."""
    pairs = quantity(len(damaged), "pair")
    print(f"\n{pairs} of an entry and a seed could not be measured; the ledger keeps what it had:")
    for (entry, seed), error in damaged.items():
        if isinstance(error, UsageError):
            print(f"  {entry.key}, seed {seed}: {error}")
        else:
            last = traceback.extract_tb(error.__traceback__)[-1]
            print(
                f"  {entry.key}, seed {seed}: {type(error).__name__}: {error} ({Path(last.filename).name}, "
                f"line {last.lineno}). A file of its runs must hold something else than it should."
            )


if __name__ == "__main__":
    commands.run_command(main, ReproduceOptions, WorkOptions)
