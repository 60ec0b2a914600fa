"""A table of runs: a TOML file of settings, axes and seeds, from which every run is made and checked.

    recipe = "liu2020/mnist_lenet_cosine"       # or flagfile = "base.flags", or neither
    seeds = [0, 1, 2]                           # default: [0]
    out_dir = "runs/mnist"                      # default: runs/<name of the file>
    name = "{eps_sched}-lr{lr}-seed{seed}"      # of a run's directory; default: <axis>=<value>-…-seed=<seed>

    [flags]                                     # of every run
    epochs = 10

    [axes]                                      # every combination of their values
    eps_sched = ["constant", "cosine"]
    lr = [1e-3, 3e-3]

    [axes.method]                               # an axis of named variants, each of several flags
    at = { objective = "at" }
    trades = { objective = "trades", strength = 6 }

A flag of an axis counts more than one of ``[flags]``, and that more than one of the recipe or flagfile.
Nothing here imports TensorFlow.
"""

import dataclasses
import itertools
import re
import string
import tomllib
from collections.abc import Mapping
from pathlib import Path

from absl import flags

from advtf.classifiers.manifest import EXPORTS, require_saved_model
from advtf.data.registry import require_available, require_place
from advtf.errors import UsageError, nearest
from advtf.settings.commands import define_flags, given_flags, parse_flags
from advtf.settings.fields import show
from advtf.training.directory import TrainingDirectory
from advtf.training.memory import require_training_memory
from advtf.training.settings import RunOptions, TrainConfig
from launch.common.runs import Run

ENTRIES = ("recipe", "flagfile", "seeds", "out_dir", "name", "flags", "axes")
SOURCES = ("recipe", "flagfile")  # where flags come from that are not in the table; not settings themselves
OWN = ("seed", "out_dir", "export_dir", "resume", "overwrite")  # flags that the sweep gives itself
_UNFIT = re.compile(r"[^\w.=+-]+")  # for the name of a directory


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """A run of a table.

    Attributes:
        run: its command and directory.
        axes: the name of each axis, and the value that the run has on it, as text.
        seed: of the run.
        config: all of its settings.
    """

    run: Run
    axes: dict[str, str]
    seed: int
    config: TrainConfig


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The runs of a table.

    Attributes:
        table: the path of the file.
        out_dir: the folder of the runs and of the results.
        runs: the runs, the seeds of one point of the axes after one another.
    """

    table: Path
    out_dir: Path
    runs: tuple[SweepRun, ...]


def read(path: str, data_dir: str | None = None, *, there: bool = True) -> Sweep:
    """Reads a table, and checks the settings of every run of it as the run itself would.

    Args:
        path: of the TOML file.
        data_dir: the folder of prepared data of every run; None leaves it to the table.
        there: whether the data must be there or within reach, as they must before a run starts.

    Raises:
        UsageError: the file cannot be read; an unknown entry or flag, a bad value, an empty axis, two runs in
            one directory; a directory that holds something else; or no data.
    """
    table = _load(path)
    seeds = _seeds(table.get("seeds", [0]), path)
    axes = {name: _axis(name, values, path) for name, values in _mapping(table, "axes", path).items()}
    fixed = _mapping(table, "flags", path)
    for name in ("recipe", "flagfile", "out_dir", "name"):
        if not isinstance(table.get(name, ""), str):
            raise UsageError(f"{name} in {path} must be a text. Received: {name} = {table[name]!r}.")
    if data_dir is not None:
        fixed = fixed | {"data_dir": data_dir}
    _refuse_own(fixed, f"[flags] of {path}")
    out_dir = Path(table.get("out_dir") or f"runs/{Path(path).stem}")
    base = [f"--{name}={table[name]}" for name in SOURCES if name in table]
    made = []
    for point in itertools.product(*(options.items() for options in axes.values())):
        values = dict(zip(axes, (name for name, _ in point), strict=True))
        chosen = _joined((options for _, options in point), path)
        for seed in seeds:
            name = _name(table.get("name"), values, seed, path)
            made.append(_run(name, values, seed, out_dir, base, fixed | chosen, path))
    _require_apart(made, path)
    _require_data(made, there)
    return Sweep(Path(path), out_dir, tuple(made))


def _load(path):
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise UsageError(
            f"the table must be a readable TOML file. Received: {path} ({error.strerror})."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the table must be a TOML file. Received: {path} ({error}).") from error
    for entry in table:
        if entry not in ENTRIES:
            hint = nearest(entry, ENTRIES) or " A flag of every run belongs into [flags]."
            raise UsageError(
                f"the entries of a table are {', '.join(ENTRIES)}. Received: {entry} in {path}.{hint}"
            )
    if all(name in table for name in SOURCES):
        raise UsageError(f"{path} can have a recipe or a flagfile. Received: both. Name one in the other.")
    return table


def _mapping(table, entry, path):
    found = table.get(entry, {})
    if not isinstance(found, Mapping):
        raise UsageError(
            f"{entry} in {path} must be a section [{entry}] of name = value. Received: {entry} = {found!r}."
        )
    return dict(found)


def _seeds(seeds, path):
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(
            f"seeds in {path} must be a list of different whole numbers of at least 0, not empty. "
            f"Received: seeds = {seeds!r}."
        )
    return seeds


def _axis(name, values, path):
    """Returns value as text -> the flags that it stands for."""
    if isinstance(values, Mapping):
        options = dict(values)
        if not all(isinstance(option, Mapping) for option in options.values()):
            raise UsageError(
                f"the axis {name} in {path} must be a list of values, or variants such as "
                f'at = {{ objective = "at" }}. Received: {values!r}.'
            )
    elif isinstance(values, list) and not any(isinstance(value, Mapping) for value in values):
        options = {_text(value): {name: value} for value in values}
        if len(options) < len(values):
            raise UsageError(f"the axis {name} in {path} must have each value once. Received: {values!r}.")
    else:
        raise UsageError(f"the axis {name} in {path} must be a list of values. Received: {values!r}.")
    if not options:
        raise UsageError(
            f"the axis {name} in {path} must have a value. Received: none. Give it some, or leave it out."
        )
    for option in options.values():
        _refuse_own(option, f"the axis {name} of {path}")
    return options


def _refuse_own(chosen, where):
    for name in chosen:
        if name in OWN:
            remedy = "Use seeds = [...]." if name == "seed" else "Use out_dir and name of the table."
            remedy = "Leave it out." if name in ("resume", "overwrite") else remedy
            raise UsageError(f"{where} must not have what a sweep decides. Received: {name}. {remedy}")


def _joined(options, path):
    """Returns the flags of one value of each axis."""
    joined = {}
    for option in options:
        for name, value in option.items():
            if name in joined:
                raise UsageError(
                    f"a flag can belong to one axis. Received: {name} in two axes of {path}. "
                    "Make them one axis of variants."
                )
            joined[name] = value
    return joined


def _text(value) -> str:
    """Returns a TOML value as it would be typed."""
    if isinstance(value, list):
        return ",".join(map(_text, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _name(pattern, values, seed, path):
    """Returns the name of the directory of a run."""
    fields = values | {"seed": str(seed)}
    if pattern is None:
        name = "-".join(f"{axis}={value}" for axis, value in fields.items())
    else:
        known = {field for _, field, _, _ in string.Formatter().parse(pattern) if field is not None}
        if not known <= fields.keys():
            raise UsageError(
                f"name in {path} can have the places {{{'}, {'.join(fields)}}}. Received: name = {pattern!r}."
            )
        name = pattern.format(**fields)
    name = _UNFIT.sub("_", name).strip("-")
    if not name.strip("."):
        raise UsageError(f"name in {path} must make a name of a directory. Received: name = {pattern!r}.")
    return name


def _run(name, axes, seed, out_dir, base, chosen, path):
    """Returns a run after making its settings, which checks them."""
    # Where flags come from stands first, so that the flags of the table count more.
    ordered = sorted(chosen.items(), key=lambda item: item[0] not in SOURCES)
    named = {flag for flag, _ in ordered}
    words = [word for word in base if word[2:].partition("=")[0] not in named]
    words += [f"--{flag}={_text(value)}" for flag, value in ordered]
    exports = EXPORTS / out_dir.name / name
    words += [f"--seed={seed}", f"--export_dir={exports}"]
    try:
        values = flags.FlagValues()
        define_flags(TrainConfig, RunOptions, flag_values=values)
        parse_flags([*words, f"--out_dir={out_dir / name}"], values, recipes=True)
        config = TrainConfig.of(given_flags(values, TrainConfig))
        options = RunOptions.of(given_flags(values, RunOptions))
        require_training_memory(config, options)
        require_place(config.dataset, options.data_dir, options.images)
        for teacher in config.teachers:
            require_saved_model(teacher, "teachers")
        run = Run(str(out_dir / name), tuple(words), epochs=config.epochs)
        _require_continuable(run, config)
    except (UsageError, flags.Error) as error:
        raise UsageError(f"{error} It is of the run {name} in {path}.") from error
    return SweepRun(run, axes, seed, config)


def _require_continuable(run, config):
    """Checks that the directory is free, or holds the run with these settings."""
    files: TrainingDirectory = run.files
    state = files.state()
    if state in ("other", "foreign"):
        raise UsageError(
            f"the directory of a run must be new, or hold that run. Received: {files.path}, which holds "
            "other files. Choose another out_dir."
        )
    if state == "new":
        return
    stored = files.stored(TrainConfig, "config")
    for field in dataclasses.fields(TrainConfig):
        before, now = getattr(stored, field.name), getattr(config, field.name)
        if before != now:
            raise UsageError(
                f"a run continues with its settings: {field.name}={show(before)} in {files.config}. "
                f"Received: {field.name}={show(now)}. Choose another out_dir, or remove that run."
            )


def _require_apart(made, path):
    seen: dict[str, SweepRun] = {}
    for one in made:
        other = seen.setdefault(one.run.path, one)
        if other is not one:
            points = (" ".join([*each.axes.values(), f"seed {each.seed}"]) for each in (other, one))
            raise UsageError(
                f"every run must have a directory of its own. Received: {one.run.path} for "
                f"{' and for '.join(points)}, in {path}. Put the axes and {{seed}} into its name."
            )


def _require_data(made, there):
    """Asks for the data of each data set once."""
    asked = set()
    for one in made:
        folder = next((word for word in one.run.flags if word.startswith("--data_dir=")), "--data_dir=")
        wanted = one.config.batch_size, one.config.val_fraction, one.config.train_examples
        key = one.config.dataset, folder, *wanted
        if key not in asked:
            asked.add(key)
            require_available(one.config.dataset, folder.partition("=")[2] or None, *wanted, there=there)
