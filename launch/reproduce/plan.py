"""The runs of the entries at one scale: each command with a directory, shared where it is the same.

An entry asks a `Lab` for trainings, evaluations and analyses. What it asks for is checked as the command
would check it, and gets a directory that is named after its settings: two entries that ask for the same
training get the same directory, also if one of them wants more written there, such as the norms of the
gradients. A run knows which others it needs.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from advtf.errors import UsageError
from advtf.evaluation.report import EvaluationDirectory
from advtf.evaluation.run import EvaluateOptions
from advtf.evaluation.settings import AttackSettings
from advtf.settings import flagfiles
from advtf.settings.fields import show
from advtf.studies.run import AnalysisDirectory
from advtf.studies.settings import AnalyzeOptions, AnalyzeSettings
from advtf.training.directory import TrainingDirectory
from advtf.training.settings import TrainConfig
from launch.common.runs import Run
from launch.reproduce.entry import Entry
from launch.reproduce.scales import Scale

LOGGED = {"dynamics_steps": max, "input_examples": max, "input_every": min}  # how two wishes become one


@dataclasses.dataclass(frozen=True)
class Planned:
    """A run that an entry has asked for, before it is known what others want of it.

    Attributes:
        name: of its directory.
        kind: class of its directory, which tells the command.
        settings: of the command; of a training its complete `TrainConfig`.
    """

    name: str
    kind: type
    settings: Any


class Plan:
    """All runs of the entries at one scale.

    Args:
        scale: the sizes.
        out_dir: folder of all runs and exports.
        data_dir: folder of prepared data; None for the commands' default.
    """

    def __init__(self, scale: Scale, out_dir: str, data_dir: str | None = None):
        self.scale, self.out_dir, self.data_dir = scale, Path(out_dir), data_dir
        self._words: dict[str, list[str]] = {}
        self._logs: dict[str, dict[str, int]] = {}
        self._planned: dict[str, Planned] = {}
        self._after: dict[str, tuple[str, ...]] = {}
        self._recipes: dict[str, dict[str, str]] = {}

    def of(self, entry: Entry, seed: int) -> dict[str, Planned]:
        """Asks an entry for its runs with one seed."""
        return entry.runs(Lab(self, seed))

    def path(self, name: str) -> str:
        """Returns the directory of a run."""
        return str(self.out_dir / "runs" / name)

    def export(self, name: str, which: str) -> str:
        """Returns where a training exports a classifier."""
        return str(self.out_dir / "exports" / name / which)

    def run(self, planned: Planned) -> Run:
        """Returns the run, with all that was asked of it so far."""
        name = planned.name
        words = [*self._words[name], *(f"--{key}={value}" for key, value in self._logs.get(name, {}).items())]
        if planned.kind is TrainingDirectory:
            words.append(f"--export_dir={self.out_dir / 'exports' / name}")
        if self.data_dir:
            words.append(f"--data_dir={self.data_dir}")
        epochs = planned.settings.epochs if planned.kind is TrainingDirectory else 0
        after = tuple(self.path(needed) for needed in self._after[name])
        return Run(self.path(name), tuple(words), planned.kind, epochs=epochs, after=after)

    def needed(self, planned: Iterable[Planned]) -> list[Planned]:
        """Returns these runs and those that they need, each once and after what it needs."""
        found: dict[str, Planned] = {}

        def add(one):
            for name in self._after[one.name]:
                add(self._planned[name])
            found.setdefault(one.name, one)

        for one in planned:
            add(one)
        return list(found.values())

    def recipe(self, name: str) -> dict[str, str]:
        """Returns the flags of a recipe by name."""
        if name not in self._recipes:
            found = {}
            for word in flagfiles.recipe_flags(name):
                flag, equals, value = word.removeprefix("--").partition("=")
                found[flag] = value if equals else "true"
            self._recipes[name] = found
        return dict(self._recipes[name])

    def add(
        self,
        name: str,
        kind: type,
        settings: Any,
        words: Iterable[str],
        *,
        after: Iterable[str] = (),
        logs: Mapping[str, int] | None = None,
    ) -> Planned:
        """Notes a run; one of the same name is the same run."""
        planned = self._planned.setdefault(name, Planned(name, kind, settings))
        self._words.setdefault(name, list(words))
        self._after.setdefault(name, tuple(dict.fromkeys(after)))
        kept = self._logs.setdefault(name, {})
        for key, value in (logs or {}).items():
            kept[key] = LOGGED[key](kept.get(key, value), value)
        return planned


class Lab:
    """What an entry makes its runs with: one seed at one scale.

    Attributes:
        seed: of the trainings.
    """

    def __init__(self, plan: Plan, seed: int):
        self._plan, self.seed = plan, seed

    @property
    def scale(self) -> Scale:
        """The sizes of the runs."""
        return self._plan.scale

    def train(self, recipe: str, **overrides: Any) -> Planned:
        """Asks for a training.

        The flags of the recipe's base are replaced by those of the scale, but what the recipe itself says
        stays, unless the scale names that recipe; `overrides` count most.

        Args:
            recipe: a name that ``python -m advtf.main --recipe=list`` prints.
            **overrides: further settings; None takes one back to its default. Those of `LOGGED` are what the
                run writes beside its results.
        """
        logs = {key: overrides.pop(key) for key in LOGGED if key in overrides}
        given = self._plan.recipe(recipe)
        task = self.scale.task(recipe)
        base = self._plan.recipe(f"{task}_base")
        own = {key for key, value in given.items() if base.get(key) != value}
        changed = {key: value for key, value in self.scale.training[task].items() if key not in own}
        changed |= {**self.scale.recipes.get(recipe, {}), "seed": self.seed, **overrides}
        after = [planned.name for planned, _ in overrides.get("teachers") or ()]
        if after:
            exports = [self._plan.export(planned.name, which) for planned, which in overrides["teachers"]]
            changed["teachers"] = ",".join(exports)
        settings = {field.name for field in dataclasses.fields(TrainConfig)}
        complete = {key: value for key, value in (given | changed).items() if key in settings}
        config = TrainConfig.of({key: value for key, value in complete.items() if value is not None})
        words = [f"--recipe={recipe}", *(f"--{key}={_typed(value)}" for key, value in changed.items())]
        return self._plan.add(
            _training_name(config, after), TrainingDirectory, config, words, after=after, logs=logs
        )

    def evaluate(self, trained: Planned, which: str = "last", **settings: Any) -> Planned:
        """Asks for an evaluation of a classifier that a training exports."""
        given = {**self.scale.evaluation, **settings}
        options = {field.name for field in dataclasses.fields(EvaluateOptions)}
        attack = AttackSettings.of({key: value for key, value in given.items() if key not in options})
        chosen = EvaluateOptions.of({key: value for key, value in given.items() if key in options})
        identity = attack.identity() | {"num_examples": chosen.num_examples, "eps_grid": chosen.eps_grid}
        typed = {key: value for key, value in given.items() if value is not None}
        name = f"evaluate-{trained.name}-{which}-{_digest([identity, sorted(typed)])}"
        words = [f"--model={self._plan.export(trained.name, which)}"]
        words += [f"--{key}={_typed(value)}" for key, value in typed.items()]
        return self._plan.add(name, EvaluationDirectory, attack, words, after=[trained.name])

    def analyze(self, study: str, *models: tuple[Planned, str] | Planned, **settings: Any) -> Planned:
        """Asks for a study of classifiers that trainings export, "last" unless another is named."""
        pairs = [(each, "last") if isinstance(each, Planned) else each for each in models]
        given = {"study": study, **self.scale.studies.get(study, {}), **settings, "seed": self.seed}
        typed = {key: value for key, value in given.items() if value is not None}
        chosen = AnalyzeSettings.of(typed)
        names = [f"{planned.name}/{which}" for planned, which in pairs]
        identity = chosen.identity() | {"model": names}
        first = f"-{pairs[0][0].name.rpartition('-')[0]}" if pairs else f"-seed{self.seed}"
        name = f"analyze-{study}{first}-{_digest([identity, sorted(typed)])}"
        words = [f"--{key}={_typed(value)}" for key, value in typed.items()]
        if pairs:
            words.append(f"--model={','.join(self._plan.export(one.name, which) for one, which in pairs)}")
        _require_options(AnalyzeOptions, AnalyzeSettings, typed)
        return self._plan.add(
            name, AnalysisDirectory, chosen, words, after=[planned.name for planned, _ in pairs]
        )


def _require_options(*classes_and_given):
    *classes, given = classes_and_given
    known = {field.name for cls in classes for field in dataclasses.fields(cls)}
    unknown = sorted(given.keys() - known)
    if unknown:
        raise UsageError(f"a study must be asked for with settings. Received: {', '.join(unknown)}.")


def _typed(value):
    """Returns a value as it is typed; text stays, such as 8/255."""
    return value if isinstance(value, str) else show(value)


def _training_name(config, teachers):
    identity = config.identity() | {"teachers": list(teachers)}
    method = config.objective if config.adversary == "none" else f"{config.objective}-{config.adversary}"
    width = f"_w{config.width}" if config.width else ""
    dataset = config.dataset.replace("/", "_")
    parts = (dataset, f"{config.model}{width}", config.eps_sched, method, f"seed{config.seed}")
    return "-".join([*parts, _digest(identity)])


def _digest(identity):
    text = json.dumps(identity, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
