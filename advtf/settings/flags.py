"""From settings dataclasses to absl flags, help, one-line errors, and the plan a run prints."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from absl import app, flags

from advtf.errors import UsageError
from advtf.settings.fields import format_epsilon, is_optional, parse_value
from advtf.training.presets import preset
from advtf.training.settings import TrainConfig

USAGE_EXIT_CODE = 2
HELP_WORDS = ("--help", "-help", "-h", "-?", "--helpshort", "-helpshort")
SHOWN_PRESETS = (  # one column of the table in --help each
    ("digits", "lenet"),
    ("mnist", "lenet"),
    ("fashion_mnist", "lenet"),
    ("cifar10", "resnet18"),
    ("cifar10", "vgg"),
    ("svhn_cropped", "resnet18"),
    ("tiny_imagenet", "preact_resnet18"),
)


class SettingFlag(flags.Flag):
    """The absl flag of one dataclass field; its value is None until it is given."""

    def __init__(self, field: dataclasses.Field):
        self.field = field
        super().__init__(
            parser=_SettingParser(field),
            serializer=flags.ArgumentSerializer(),
            name=field.name,
            default=None,
            help_string=field.metadata["help"],
            boolean=field.metadata["parser"].boolean,
        )


class _SettingParser(flags.ArgumentParser):
    def __init__(self, field: dataclasses.Field):
        self.field = field

    def parse(self, argument: Any) -> Any:
        return parse_value(self.field, argument)


def define_flags(*classes: type, flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines one flag per field of the settings dataclasses."""
    for cls in classes:
        for field in dataclasses.fields(cls):
            flags.DEFINE_flag(SettingFlag(field), flag_values, module_name=cls.__module__)


def given_flags(flag_values: flags.FlagValues, cls: type) -> dict[str, Any]:
    """Returns the settings of `cls` that were on the command line or in a flagfile."""
    names = [field.name for field in dataclasses.fields(cls)]
    return {name: flag_values[name].value for name in names if flag_values[name].value is not None}


@contextlib.contextmanager
def exit_on_usage_error() -> Iterator[None]:
    """Prints a `UsageError` or an absl flag error as one line on stderr and exits with code 2."""
    try:
        yield
    except (UsageError, flags.Error) as error:
        # absl wraps what a parser raises and repeats the value; the original line says it once.
        cause = error.__context__ if isinstance(error.__context__, UsageError) else error
        print(f"error: {' '.join(str(cause).removeprefix('ERROR:: ').split())}", file=sys.stderr)
        sys.exit(USAGE_EXIT_CODE)


def parse_or_exit(argv: Sequence[str]) -> list[str]:
    """Parses the command line; for ``app.run(main, flags_parser=parse_or_exit)``.

    ``--help`` prints the settings and exits with 0; a mistake prints one line and exits with 2.
    """
    if any(word in HELP_WORDS for word in argv[1:]):
        _print_help()
        sys.exit(0)
    with exit_on_usage_error():
        rest = flags.FLAGS(list(argv))
        if len(rest) > 1:
            raise UsageError(
                f"every setting is written --name=value, without spaces. Received: {' '.join(rest[1:])}."
            )
    return rest


def run_command(main: Callable[[list[str]], Any], *classes: type) -> None:
    """Runs a command: defines the flags of `classes`, parses them and calls ``main(argv)``.

    A `UsageError` from `main` ends in one line on stderr and exit code 2, as a flag error does.
    """
    define_flags(*classes)

    def guarded(argv: list[str]) -> Any:
        with exit_on_usage_error():
            return main(argv)

    app.run(guarded, flags_parser=parse_or_exit)


def help_text(flag_values: flags.FlagValues = flags.FLAGS) -> str:
    """Returns the command's description, its settings by section, and the table of presets."""
    sections: dict[str, list[str]] = {}
    for name in flag_values:
        flag = flag_values[name]
        if isinstance(flag, SettingFlag):
            sections.setdefault(flag.field.metadata["section"], []).append(_help_line(flag.field))
    lines = [(sys.modules["__main__"].__doc__ or "").strip(), ""]
    for section, entries in sections.items():
        lines += [f"{section}:", *entries, ""]
    lines.append("Also: --flagfile=FILE reads flags from a file; the last of several values counts.")
    if any("preset" in entry for entries in sections.values() for entry in entries):
        lines += ["", "Presets, by data set and model (others: as cifar10):", *_preset_table()]
    return "\n".join(lines).strip()


def _print_help() -> None:
    try:
        print(help_text(), flush=True)
    except BrokenPipeError:  # `--help | head` closed the pipe; keep the interpreter's last flush quiet too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _help_line(field: dataclasses.Field) -> str:
    parser = field.metadata["parser"]
    choices = f" {{{','.join(parser.choices)}}}" if parser.choices else ""
    default = "preset" if field.default is dataclasses.MISSING else show(field.default)
    optional = field.default is None and is_optional(field)
    suffix = "" if optional else f" [{default}]"
    name = f"--[no]{field.name}" if parser.boolean else f"--{field.name}"
    return f"  {name:<29}{field.metadata['help']}{choices}{suffix}"


def _preset_table() -> list[str]:
    columns = [preset(dataset, model) for dataset, model in SHOWN_PRESETS]
    rows = [("dataset", [dataset for dataset, _ in SHOWN_PRESETS])]
    for field in dataclasses.fields(TrainConfig):
        if field.default is dataclasses.MISSING and field.name != "depth":
            rows.append((field.name, [_cell(field.name, column[field.name]) for column in columns]))
    return [f"  {name:<17}" + "".join(f"{value:<14}" for value in values).rstrip() for name, values in rows]


def _cell(name: str, value: Any) -> str:
    return format_epsilon(value) if name in ("eps", "eps_max") and value is not None else show(value)


def show(value: Any) -> str:
    """Returns a setting's value as one would type it."""
    if isinstance(value, tuple):
        return ",".join(map(show, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def describe(config: TrainConfig, given: Iterable[str]) -> list[tuple[str, str]]:
    """Returns the plan of a run as (section, line) pairs; the last names what was given explicitly."""
    lines = [
        ("data", _describe_data(config)),
        ("model", _describe_model(config)),
        ("attack", describe_attack(config)),
        ("method", _describe_method(config)),
        ("epsilon", _describe_epsilon(config)),
        ("optimizer", _describe_optimizer(config)),
        ("compute", f"{config.precision}, jit {config.jit}, strategy {config.strategy}, seed {config.seed}"),
    ]
    chosen = ", ".join(name for name in given if name not in ("dataset", "model")) or "none"
    return [*lines, ("given", f"{chosen} (the rest: values for {config.dataset} with {config.model})")]


def _describe_data(config: TrainConfig) -> str:
    size = f" at {config.image_size}x{config.image_size}" if config.image_size else ""
    augment = ", crop and flip" if config.augment else ""
    held_out = f"{config.val_fraction:.3g} held out"
    best = "best epoch by the test images" if config.select_on == "test" else held_out
    return f"{config.dataset}{size}, batch {config.batch_size}, {best}{augment}"


def _describe_model(config: TrainConfig) -> str:
    size = [f"{name} {value}" for name in ("width", "depth") if (value := getattr(config, name)) is not None]
    return ", ".join([config.model, *size, config.activation])


def describe_attack(config: Any) -> str:
    """Returns norm, radius, steps and start of PGD in a line, of a TrainConfig or of AnalyzeSettings."""
    start = "no random start" if config.random_start == "none" else f"start {config.random_start}"
    step = format_epsilon(config.relative_step * config.eps)
    return (
        f"PGD, {config.norm}, ε {format_epsilon(config.eps)}, {config.attack_steps} steps of {step} "
        f"({config.relative_step:.3g} ε), {start}"
    )


def _describe_method(config: TrainConfig) -> str:
    strength = "" if config.strength is None else f" {config.strength:g}{' ramped' * config.strength_ramp}"
    awp = f", awp {config.awp:g}" if config.awp else ""
    average = "" if config.averaging == "none" else f"; weights averaged ({config.averaging})"
    return f"{config.objective}{strength} against {config.adversary}{awp}{average}"


def _describe_epsilon(config: TrainConfig) -> str:
    target = format_epsilon(config.eps)
    curve = f"constant {target}"
    if config.eps_max is not None:
        start, end = format_epsilon(config.eps_min), format_epsilon(config.eps_max)
        curve = f"{config.eps_sched} from {start} to {end}, at most {target}"
    periods = f", restarts at {show(config.periods)}" if config.periods else ""
    return f"{curve}, {config.epochs} epochs{periods}, set every {config.schedule_unit}"


def _describe_optimizer(config: TrainConfig) -> str:
    warmup_unit = "epochs" if config.lr_warmup >= 1 else "of a period"
    detail = {
        "step": f", times {config.lr_factor:g} at {show(config.lr_milestones)} of a period",
        "exponential": f", times {config.lr_factor:g} between {show(config.lr_milestones)} of a period",
        "warmup": f", from 0 over {config.lr_warmup:g} {warmup_unit}",
    }.get(config.lr_sched, "")
    momentum = (
        f", momentum {config.momentum:g}{' (Nesterov)' if config.nesterov else ''}" if config.momentum else ""
    )
    rate = f"lr {config.lr:g} {config.lr_sched}{detail}"
    decay = f"{'decoupled ' if config.decoupled_weight_decay else ''}weight decay {config.weight_decay:g}"
    return f"{config.optimizer}{momentum}, {rate}, {decay}"
