"""The experiments that are tables of runs: what their commands mean, and how a table is carried out."""

import argparse
import importlib
from pathlib import Path

import pytest
from absl import flags
from helpers.command import run

from advtf.settings.commands import define_flags, given_flags, parse_flags
from advtf.studies.run import AnalysisDirectory
from advtf.studies.settings import AnalyzeOptions, AnalyzeSettings
from advtf.training.directory import TrainingDirectory
from advtf.training.settings import RunOptions, TrainConfig
from launch.common import arguments, executors
from launch.common.experiment import Experiment, Figure, carry_out
from launch.common.runs import Run

TABLES = {  # name -> how many trainings and analyses
    "mnist_schedules": (3, 0),
    "mnist_epsilons": (5, 0),
    "mnist_hessian": (5, 5),
    "mnist_landscapes": (5, 5),
    "mnist_connectivity": (6, 3),
    "mnist_capacity": (12, 1),
    "cifar10_epsilons": (4, 0),
}
SETTINGS = {
    TrainingDirectory: (TrainConfig, RunOptions),
    AnalysisDirectory: (AnalyzeSettings, AnalyzeOptions),
}
FLAG = {
    TrainingDirectory: "--jit=off",
    AnalysisDirectory: "--batch_size=7",
}  # known to one command, to the other not needed


def table(name, *given):
    module = importlib.import_module(f"launch.experiments.{name}")
    schedule = name.startswith("mnist_") and "schedules" not in name and "capacity" not in name
    made = module.parser() if hasattr(module, "parser") else arguments.runs_parser("", schedule=schedule)
    return module.experiment(arguments.parse(made, given))


def parsed(one):
    """(settings, options) of a run's command."""
    values = flags.FlagValues()
    define_flags(*SETTINGS[one.kind], flag_values=values)
    parse_flags([*one.flags, f"--out_dir={one.path}"], values, recipes=one.kind == TrainingDirectory)
    settings, options = (given_flags(values, cls) for cls in SETTINGS[one.kind])
    return (
        TrainConfig.of(settings) if one.kind == TrainingDirectory else AnalyzeSettings.of(settings)
    ), options


@pytest.mark.parametrize("name", TABLES)
def test_every_command_is_valid_and_every_directory_its_own(name):
    runs = table(name).runs
    kinds = [one.kind for one in runs]
    assert (kinds.count(TrainingDirectory), kinds.count(AnalysisDirectory)) == TABLES[name]
    assert len({one.path for one in runs}) == len(runs)
    configs = [parsed(one)[0] for one in runs]
    assert len({repr(config) for config in configs}) == len(configs)  # no run repeats another


@pytest.mark.parametrize("name", TABLES)
def test_an_analysis_comes_after_the_trainings_that_export_its_classifiers(name):
    exported = set()
    for one in table(name).runs:
        if one.kind == TrainingDirectory:
            exported.add(one.export)
        else:
            assert set(parsed(one)[0].model) <= exported


@pytest.mark.parametrize("name", TABLES)
def test_figures_are_drawn_from_the_files_of_the_table(name):
    made = table(name)
    assert len({figure.path for figure in made.figures}) == len(made.figures) > 0
    for figure in made.figures:
        files = figure.files.values() if isinstance(figure.files, dict) else figure.files
        for file in map(Path, files):
            assert any(file.is_relative_to(one.path) for one in made.runs)


@pytest.mark.parametrize("name", TABLES)
def test_flags_after_the_dashes_and_the_data_folder_reach_the_commands(name):
    kind = AnalysisDirectory if name in ("mnist_hessian", "mnist_landscapes") else TrainingDirectory
    made = table(name, "--data_dir=my data", "--", FLAG[kind])
    assert all(parsed(one)[1]["data_dir"] == "my data" for one in made.runs)
    for one in made.runs:
        assert (FLAG[kind] in one.flags) == (one.kind == kind)


def test_experiments_of_the_same_models_train_them_with_the_same_settings():
    trained = {one.path: parsed(one) for one in table("mnist_epsilons").runs}
    for name in ("mnist_hessian", "mnist_landscapes", "mnist_connectivity"):
        for one in table(name).runs:
            if one.kind == TrainingDirectory and not one.path.endswith("-seed1"):
                assert parsed(one) == trained[one.path]


def test_the_schedule_names_the_runs():
    (one, *_) = table("mnist_epsilons", "--eps_sched=linear").runs
    assert one.path == "runs/mnist-linear-eps0" and parsed(one)[0].eps_sched == "linear"


def test_capacity_takes_the_part_of_the_table_that_is_chosen():
    *trainings, units = table("mnist_capacity", "--widths", "4", "--seeds", "0", "1").runs
    widths = {(config.width, config.eps_sched, config.seed) for config, _ in map(parsed, trainings)}
    schedules = ("constant", "cosine", "linear")
    assert widths == {(4, schedule, seed) for schedule in schedules for seed in (0, 1)}
    assert parsed(units)[0].model == tuple(one.export for one in trainings) and units.anew


class Executor:
    """Notes the commands instead of starting them, which end at once with the exit codes that are given."""

    def __init__(self, codes=()):
        self.seen, self.codes = [], dict(codes)

    def room(self):
        return 2

    def start(self, run, command):
        self.seen.append(command[1:])
        code = self.codes.get(run.name, 0)
        return argparse.Namespace(code=lambda: code)


@pytest.fixture
def executed(monkeypatch, tmp_path):
    """Gives the executor that the experiment uses."""
    monkeypatch.chdir(tmp_path)
    made = Executor()
    monkeypatch.setattr(executors, "LocalProcesses", lambda jobs, threads: made)
    return made


def test_what_was_begun_is_resumed_and_what_was_not_is_started(executed):
    runs = [Run("runs/study", ("--study=hessian",), AnalysisDirectory, anew=True)]
    runs += [Run(f"runs/{name}", ("--epochs=2",)) for name in ("new", "begun", "finished")]
    for one in runs[2:]:
        one.files.path.mkdir(parents=True)
        one.files.write_config(TrainConfig.of({}), RunOptions())
    runs[3].files.results.write_text("{}")
    carry_out(Experiment((*runs,), ()))
    assert executed.seen == [  # the finished one compares its settings; the analysis needs the trainings
        ["-m", "advtf.main", "--epochs=2", "--out_dir=runs/new"],
        ["-m", "advtf.main", "--epochs=2", "--out_dir=runs/begun", "--resume"],
        ["-m", "advtf.main", "--epochs=2", "--out_dir=runs/finished", "--resume"],
        ["-m", "advtf.analyze", "--study=hessian", "--out_dir=runs/study", "--overwrite"],
    ]


def test_a_run_that_fails_stops_no_other_training_but_the_analyses_and_figures(executed):
    executed.codes["0"] = 3
    drawn = []
    figure = Figure(lambda files, path: drawn.append(path), {}, "runs/a.png")
    runs = [Run(f"runs/{n}", ()) for n in range(3)] + [Run("runs/study", (), AnalysisDirectory)]
    with pytest.raises(SystemExit) as stopped:
        carry_out(Experiment((*runs,), (figure,)))
    assert stopped.value.code == 1 and len(executed.seen) == 3 and not drawn


def test_figures_are_drawn_when_all_runs_are_finished(executed, capsys):
    figure = Figure(lambda files, path: (len(executed.seen), files, path), {"a": "b"}, "runs/a.png")
    carry_out(Experiment(tuple(Run(f"runs/{n}", ()) for n in range(3)), (figure,)))
    assert capsys.readouterr().out.strip().endswith(str((3, {"a": "b"}, "runs/a.png")))


@pytest.mark.slow
def test_an_experiment_runs_from_one_command_and_does_not_repeat_itself(tmp_path):
    small = ("--dataset=digits", "--width=1", "--epochs=2", "--steps_per_epoch=2", "--attack_steps=2")
    command = ("launch.experiments.mnist_schedules", tmp_path, "--", *small, "--schedule_unit=step")
    code, out, error = run(*command)
    assert code == 0, out + error
    figure = tmp_path / "runs" / "mnist-schedules.png"
    assert out.strip().endswith("runs/mnist-schedules.png") and figure.exists()
    results = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/evaluation.json")}
    code, out, error = run(*command)
    assert code == 0 and out.count("finished ") == len(results) == 3, out + error
    assert all(path.stat().st_mtime_ns == time for path, time in results.items())
    code, out, error = run(*command, "--epochs=3")
    assert code == 1 and "epochs=2. Received: epochs=3" in out
