"""The benchmarks of advtf: what things cost against other libraries, and whether others find the same.

    python -m launch.benchmarks --list
    python -m launch.benchmarks step attacks --rounds=5
    python -m launch.benchmarks all --prepare --resume --out=docs/results/benchmarks --data_dir=...
    python -m launch.benchmarks --out=docs/results/benchmarks --figure=docs/figures/benchmarks.png \\
        --page=docs/results/cost.md

Both sides of a comparison are timed in turn in one process, every other round backwards; the first calls,
which trace and warm up, are left out unless a row says otherwise. A ratio is the median over the rounds of
our cost by theirs, so below 1 advtf is faster; the smallest and the largest stand beside it. Every entry
writes one JSON file, in place of that of an earlier measurement, with the machine, the versions and the
command. Several entries are measured in a process each.

PyTorch, torchattacks and ART are no dependencies of advtf; entries that need them say so:
``pip install ".[compare]"``. The official autoattack is not on PyPI: give its checkout by PYTHONPATH.
"""

import argparse
import datetime
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from advtf.errors import UsageError
from advtf.runtime import import_tensorflow
from advtf.settings.commands import exit_on_usage_error
from launch.benchmarks import registry
from launch.benchmarks.registry import ENTRIES, PACKAGES
from launch.common.arguments import parser
from launch.common.benchmark import Result, machine, read_results, versions_of
from launch.common.classifiers import CLASSIFIERS

OUT = "runs/benchmarks"


def arguments_parser() -> argparse.ArgumentParser:
    """Returns the parser: options of the suite, and a group for every entry."""
    made = parser(__doc__)
    made.add_argument(
        "entries",
        nargs="*",
        choices=[*ENTRIES, "all", []],
        metavar="entry",
        help=", ".join([*ENTRIES, "all"]),
    )
    made.add_argument("--list", action="store_true", help="say what the entries compare, and stop")
    made.add_argument("--rounds", type=int, help="of every entry; default: the entry's own")
    made.add_argument("--data_dir", help="folder of prepared data sets")
    made.add_argument("--out", default=OUT, help="folder of the results [%(default)s]")
    made.add_argument(
        "--resume", action="store_true", help="keep results with the same settings and versions"
    )
    made.add_argument("--prepare", action="store_true", help="train the classifiers that are not there yet")
    made.add_argument("--smoke", action="store_true", help="tiny sizes: does everything run?")
    made.add_argument("--figure", help="file for the figure of all results in --out")
    made.add_argument("--page", help="page whose table of all results in --out is written anew")
    for name, entry in ENTRIES.items():
        group = made.add_argument_group(name, entry.about)
        for key, option in entry.options.items():
            looks = {"help": f"{option.help} [{option.default}]", "default": None}
            if isinstance(option.default, bool):
                group.add_argument(f"--{name}.{key}", action="store_true", **looks)
            else:
                group.add_argument(f"--{name}.{key}", type=type(option.default), **looks, metavar=key.upper())
    return made


def options_of(name: str, chosen: argparse.Namespace) -> SimpleNamespace:
    """Returns the options of an entry: what was given, else those of ``--smoke`` or the defaults."""
    entry, found = ENTRIES[name], {}
    for key, option in entry.options.items():
        given = getattr(chosen, f"{name}.{key}")
        found[key] = given if given is not None else option.smoke if chosen.smoke else option.default
    rounds = chosen.rounds or (1 if chosen.smoke else entry.rounds)
    return SimpleNamespace(rounds=rounds, data_dir=chosen.data_dir, **found)


def command_of(name: str, options: SimpleNamespace) -> str:
    """Returns the command that measures an entry with these options; data are where they are."""
    entry, words = ENTRIES[name], ["python", "-m", "launch.benchmarks", name, f"--rounds={options.rounds}"]
    for key, option in entry.options.items():
        value = getattr(options, key)
        if value != option.default:
            words.append(f"--{name}.{key}" + ("" if value is True else f"={value}"))
    return shlex.join(words)


def _is_chosen(name, entries):
    return name in entries or ("all" in entries and ENTRIES[name].in_all)


def measure(name: str, chosen: argparse.Namespace) -> None:
    """Measures an entry in this process and writes its file; keeps what is there with ``--resume``."""
    options, folder = options_of(name, chosen), Path(chosen.out)
    settings = {key: value for key, value in vars(options).items() if key != "data_dir"}
    found = versions_of(PACKAGES[package] for package in ENTRIES[name].needs)
    if chosen.resume and _is_measured(folder / f"{name}.json", settings, found):
        print(f"{name}: measured already, {folder / name}.json")
        return
    print(f"{name}: {ENTRIES[name].about}", flush=True)
    import_tensorflow()  # without its messages, before a module of an entry does
    rows = []
    for row in registry.compare(name, options):
        rows.append(row)
        print(f"  {row}", flush=True)
    result = Result(
        entry=name,
        about=ENTRIES[name].about,
        command=command_of(name, options),
        date=datetime.date.today().isoformat(),
        versions=found,
        machine=machine(),
        settings=settings,
        comparisons=tuple(rows),
    )
    print(f"  {result.write(folder)}")


def _is_measured(path, settings, found):
    if not path.exists():
        return False
    result = Result.read(path)
    return (result.settings, result.versions, result.machine) == (settings, found, machine())


def measure_in_turn(names: Sequence[str], given: Sequence[str]) -> list[str]:
    """Measures entries in a process each, for what one leaves behind must not slow down the next.

    Returns:
        The names of those that failed.
    """
    rest = [word for word in given if word not in (*ENTRIES, "all", "--prepare")]
    own = [word for word in rest if not word.startswith(("--figure", "--page"))]
    command = [sys.executable, "-m", "launch.benchmarks"]
    return [name for name in names if subprocess.run([*command, name, *own]).returncode != 0]


def prepare(names: Sequence[str], chosen: argparse.Namespace) -> None:
    """Trains the classifiers that the options of the entries name, by default and not there yet."""
    wanted = {value for name in names for value in vars(options_of(name, chosen)).values()}
    for path, command in CLASSIFIERS.items():
        if path in wanted and not Path(path).exists():
            words = shlex.split(command)[1:] + ([f"--data_dir={chosen.data_dir}"] if chosen.data_dir else [])
            subprocess.run([sys.executable, *words], check=True)


def main(arguments: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = arguments_parser().parse_args(given)
    names = [name for name in ENTRIES if _is_chosen(name, chosen.entries)]
    if chosen.list or not (names or chosen.figure or chosen.page):
        for name, entry in ENTRIES.items():
            missing = entry.missing()
            note = f" Not installed: {', '.join(missing)}." if missing else ""
            print(f"{name:<16}{entry.about}{note}")
        return
    if chosen.rounds is not None and chosen.rounds < 1:
        raise UsageError(f"rounds must be at least 1. Received: rounds={chosen.rounds}.")
    if chosen.prepare:
        prepare(names, chosen)
    failed = []
    if len(names) == 1:
        measure(names[0], chosen)
    elif names:
        failed = measure_in_turn(names, given)
    if chosen.figure or chosen.page:
        from launch.benchmarks.report import draw, write_table

        results = read_results(Path(chosen.out))
        if chosen.figure:
            draw(results, Path(chosen.figure))
        if chosen.page:
            write_table(results, Path(chosen.page))
    if failed:
        raise UsageError(
            f"every entry must be measured. Received: a failure in {', '.join(failed)}; see above."
        )


if __name__ == "__main__":
    with exit_on_usage_error():
        main()
