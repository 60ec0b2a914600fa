"""Tables of runs: what a table means, what is refused before anything starts, and what is made of the
results."""

import csv
import json
import shutil
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command import environment, finish, run, start
from helpers.run import epoch_values, snapshot_bits

from advtf.errors import UsageError
from advtf.processes import thread_settings
from advtf.settings.commands import exit_on_usage_error
from advtf.storage.files import write_json
from advtf.training.directory import TrainingDirectory
from advtf.training.settings import RunOptions
from launch.sweep import results, table

TABLE = """
recipe = "liu2020/mnist_lenet_cosine"
seeds = [3, 1]
out_dir = "runs/x"
[flags]
dataset = "digits"
epochs = 4
augment = true
periods = [2, 3]
[axes]
lr = [1e-3, 0.01]
[axes.method]
at = { objective = "at" }
trades = { objective = "trades", strength = 6, epochs = 5 }
"""


@pytest.fixture
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text, **more):
    Path("t.toml").write_text(text)
    return table.read("t.toml", **more)


def test_every_combination_of_axes_and_seeds_is_a_run_with_its_settings(inside):
    sweep = read(TABLE)
    points = [(one.axes["lr"], one.axes["method"], one.seed) for one in sweep.runs]
    assert points == [(lr, m, s) for lr in ("0.001", "0.01") for m in ("at", "trades") for s in (3, 1)]
    last = sweep.runs[-1]
    config = last.config
    assert (config.objective, config.strength, config.lr, config.seed) == ("trades", 6.0, 0.01, 1)
    # The recipe gives the schedule, [flags] counts more than it, and an axis more than [flags].
    assert (config.eps_sched, config.dataset, config.epochs, config.augment) == ("cosine", "digits", 5, True)
    assert config.periods == (2, 3) and sweep.runs[0].config.epochs == 4
    assert last.run.path == "runs/x/lr=0.01-method=trades-seed=1"
    assert "--export_dir=saved_models/x/lr=0.01-method=trades-seed=1" in last.run.flags
    assert last.run.epochs == 5


def test_names_flagfiles_and_the_data_folder(inside):
    Path("base.flags").write_text("--epochs=7\n--width=2\n")
    sweep = read(
        'flagfile = "base.flags"\nname = "e{eps}-{seed}"\n[flags]\nwidth = 3\n[axes]\neps = ["8/255", "0.1"]',
        data_dir="my data",
    )
    assert [one.run.path for one in sweep.runs] == ["runs/t/e8_255-0", "runs/t/e0.1-0"]
    assert [(one.config.epochs, one.config.width, one.config.eps) for one in sweep.runs] == [
        (7, 3, 8 / 255),
        (7, 3, 0.1),
    ]
    assert all("--data_dir=my data" in one.run.flags for one in sweep.runs)


BAD = {
    "lr = 1": "Received: lr in t.toml. A flag of every run belongs into [flags].",
    "seed = [1]": "Did you mean 'seeds'?",
    "seeds = []": "not empty. Received: seeds = []",
    "seeds = [1, 1]": "different whole numbers",
    "seeds = [true]": "different whole numbers",
    "axes = 3": "must be a section [axes]",
    "[axes]\nlr = []": "the axis lr in t.toml must have a value. Received: none.",
    "[axes]\nlr = 3": "must be a list of values. Received: 3",
    "[axes]\nlr = [0.1, 0.1]": "must have each value once",
    "[axes.m]\nat = 3": "variants such as at =",
    "[axes]\nlr = [0.1, -2]": "lr must be a number above 0, within float32 (decimal or fraction). "
    "Received: lr=-2. It is of the run lr=-2-seed=0 in t.toml.",
    "[axes]\nlrr = [0.1]": "Received: --lrr. Did you mean --lr? It is of the run",
    "[flags]\nobjectiv = 'at'": "Did you mean --objective?",
    "[flags]\nmomentum = 0.9": "momentum needs optimizer=sgd",
    "[flags]\nseed = 1": "must not have what a sweep decides. Received: seed. Use seeds",
    "[axes]\nout_dir = ['a']": "what a sweep decides. Received: out_dir",
    "[axes]\neps = [0.1]\n[axes.m]\na = { eps = 0.2 }": "Received: eps in two axes of t.toml",
    "name = 'x'\nseeds = [0, 1]": "Received: runs/t/x for seed 0 and for seed 1, in t.toml.",
    "name = 'x{lr}'": "the places {seed}. Received: name = 'x{lr}'",
    "recipe = 'none such'": "recipe must be a name that --recipe=list lists",
    "recipe = 'a'\nflagfile = 'b'": "can have a recipe or a flagfile. Received: both",
    "recipe = 3": "recipe in t.toml must be a text",
    "[flags]\ndataset = 'cifar10_11'": "Did you mean 'cifar10_1'?",
    "[flags]\nobjective = 'kdsa'\nteachers = ['a', 'b']": "teachers must be",
    "seeds = [0": "must be a TOML file",
}


@pytest.mark.parametrize("text", BAD)
def test_a_mistake_is_refused_before_anything_is_written(inside, text):
    with pytest.raises(UsageError) as error:
        read(text)
    assert BAD[text] in str(error.value) and [path.name for path in inside.iterdir()] == ["t.toml"]


def test_a_table_that_is_not_there_is_refused(inside):
    with pytest.raises(UsageError, match=r"readable TOML file. Received: no.toml \(No such file"):
        table.read("no.toml")


def begun(path, config):
    files = TrainingDirectory(Path(path))
    files.path.mkdir(parents=True)
    files.write_config(config, RunOptions())
    return files


def test_a_directory_with_another_run_is_refused(inside):
    (one,) = read("[flags]\nepochs = 3").runs
    begun(one.run.path, one.config)
    assert read("[flags]\nepochs = 3").runs  # it is the same run
    with pytest.raises(UsageError, match=r"epochs=3 in runs/t/seed=0/config.json. Received: epochs=4"):
        read("[flags]\nepochs = 4")
    (Path(one.run.path) / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="which holds other files"):
        read("[flags]\nepochs = 3")


ERRORS = {("at", 0): (2.0, 10.0), ("at", 1): (4.0, 16.0), ("trades", 0): (3.0, 8.5)}


@pytest.fixture
def finished(inside):
    """A sweep of four runs, of which three are finished, with made up errors."""
    sweep = read("seeds = [0, 1]\n[axes]\nobjective = ['at', 'trades']")
    for one in sweep.runs:
        errors = ERRORS.get((one.axes["objective"], one.seed))
        if errors:
            record = dict(zip(("clean_error", "pgd_error"), errors, strict=True))
            write_json(
                begun(one.run.path, one.config).results, {"results": {"last": record, "period1": record}}
            )
    return sweep


def test_the_table_has_mean_and_standard_deviation_over_seeds(finished):
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in results.mean_table(finished).split("\n")
    ]
    assert lines[0] == ["objective", "seeds", "last clean", "last PGD"]
    deviation = statistics.stdev([10.0, 16.0])
    assert lines[2] == ["at", "2", "3.00 ± 1.41", f"13.00 ± {deviation:.2f}"]
    assert lines[3] == ["trades", "1", "3.00", "8.50"]


def test_the_csv_file_has_a_row_for_every_run(finished):
    states = {one.run.path: "failed" if one.seed else "finished" for one in finished.runs}
    with open(results.write_csv(finished, states), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["objective"], int(row["seed"]), row["state"]) for row in rows] == [
        ("at", 0, "finished"), ("at", 1, "failed"), ("trades", 0, "finished"), ("trades", 1, "failed"),
    ]  # fmt: skip
    for row in rows:
        errors = ERRORS.get((row["objective"], int(row["seed"])))
        assert [row["last.clean_error"], row["last.pgd_error"]] == list(map(str, errors or ("", "")))
        assert Path(row["directory"]).is_relative_to("runs/t")


def test_tensorboards_plugin_finds_settings_and_errors(finished):
    """TensorBoard's own reader is the oracle."""
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
    from tensorboard.plugins.hparams import plugin_data_pb2

    folder = results.write_hparams(finished)
    results.write_hparams(finished)  # again, which must not double anything
    loaded = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    assert len(loaded.Runs()) == len(ERRORS)
    for (objective, seed), errors in ERRORS.items():
        events = loaded.GetAccumulator(f"objective={objective}-seed={seed}")
        found = [events.Scalars(f"error/last.{name}_error") for name in ("clean", "pgd")]
        assert [[event.value for event in each] for each in found] == [[error] for error in errors]
        data = {
            tag: plugin_data_pb2.HParamsPluginData.FromString(content)
            for tag, content in events.PluginTagToContent("hparams").items()
        }
        start = data["_hparams_/session_start_info"].session_start_info.hparams
        assert (start["objective"].string_value, start["seed"].number_value) == (objective, seed)
        experiment = data["_hparams_/experiment"].experiment
        assert {metric.name.tag for metric in experiment.metric_infos} >= {"error/last.clean_error"}
        assert data["_hparams_/session_end_info"].session_end_info.status == 1  # success


def test_damaged_results_are_not_taken_for_none(finished):
    finished.runs[0].run.files.results.write_text("{}")
    with pytest.raises(UsageError, match="must be the results that the run has written"):
        results.mean_table(finished)


def sweep_command(*arguments):
    """Calls `python -m launch.sweep` in this process; returns its exit code."""
    from absl import flags

    from advtf.settings.commands import define_flags, parse_flags
    from launch.sweep import __main__ as command

    values = flags.FlagValues()
    define_flags(command.SweepOptions, command.WorkOptions, flag_values=values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command.flags, "FLAGS", values)
        try:
            with exit_on_usage_error():
                parse_flags(arguments, values)
                command.main([])
        except SystemExit as stopped:
            return stopped.code
    return 0


def test_the_number_of_threads_belongs_to_a_sweep(finished, capsys):
    from launch.sweep import __main__ as command

    command._record(finished, 1)
    command._record(finished, 1)
    with pytest.raises(UsageError, match=r"threads=1 in runs/t/sweep.json. Received: threads=2"):
        command._record(finished, 2)


def test_the_command_without_a_table_and_a_dry_run(inside, capsys):
    assert sweep_command() == 2 and "the table must be given" in capsys.readouterr().err
    Path("t.toml").write_text("seeds = [0, 1]")
    assert sweep_command("--table=t.toml", "--dry_run") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("python -m advtf.main --out_dir=runs/t/seed=0 ") and "--seed=1" in second
    assert not Path("runs").exists()


def test_a_dry_run_needs_no_data_and_finds_the_other_mistakes(inside, monkeypatch, capsys):
    monkeypatch.setattr("advtf.data.prepared.reachable", lambda url: False)
    Path("t.toml").write_text("[axes]\ndataset = ['tiny_imagenet', 'cifar10']")
    assert sweep_command("--table=t.toml", "--data_dir=nothing") == 2
    assert "tiny_imagenet must lie in nothing" in capsys.readouterr().err
    assert sweep_command("--table=t.toml", "--data_dir=nothing", "--dry_run") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    for axis, mistake in (
        ("dataset = ['digist']", "Did you mean 'digits'?"),
        ("train_examples = [1439]", "train_examples must be between 1 and"),
        ("images = ['disk']", "images=disk needs data that TFDS"),
    ):
        Path("t.toml").write_text(f"[axes]\n{axis}")
        assert sweep_command("--table=t.toml", "--dry_run") == 2 and mistake in capsys.readouterr().err


SMALL = """
seeds = [0, 1]
[flags]
model = "mlp"
width = 1
epochs = 3
steps_per_epoch = 5
attack_steps = 1
eval_examples = 20
periods = "none"
val_fraction = 0
[axes]
eps_sched = ["constant", "cosine", "linear"]
"""


def undisturbed(folder, one):
    """A run of the table by hand, with one thread as in the sweep."""
    done = subprocess.run(
        [sys.executable, "-m", "advtf.main", *one.run.flags, "--export_dir=e", "--out_dir=by-hand"],
        cwd=folder, env=environment() | thread_settings(1), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return TrainingDirectory(folder / "by-hand")


@pytest.mark.slow
@pytest.mark.parametrize("where", [(), ("--cluster=local",)], ids=["here", "ray"])
def test_a_sweep_whose_runs_and_driver_are_killed_ends_complete_with_the_same_bits(inside, where):
    Path("small.toml").write_text(SMALL)
    command = ("launch.sweep", inside, "small.toml", *where)
    sweep = table.read("small.toml")
    first = sweep.runs[0].run

    def wait_for(process, ready):
        while not ready():
            assert process.poll() is None
            signal.sigtimedwait([], 0.01)

    process = start(*command)
    wait_for(process, lambda: first.epochs_done() >= 1)
    (holder,) = [int(p.name) for p in Path("/proc").glob("[0-9]*") if _holds(p, first)]
    Path(f"/proc/{holder}/comm").exists()
    subprocess.run(["kill", "-9", str(holder)], check=True)
    wait_for(process, lambda: sweep.runs[2].run.epochs_done() >= 1)
    process.kill()
    finish(process)
    code, out, error = run(*command)
    assert code == 0, out + error
    assert len(list(csv.DictReader(open(sweep.out_dir / "results.csv")))) == 6  # noqa: SIM115
    assert all(one.run.finished() for one in sweep.runs) and "6 runs, finished before:" in out
    expected = undisturbed(inside, sweep.runs[0])
    assert epoch_values(first.files.metrics) == epoch_values(expected.metrics)
    assert snapshot_bits(first.files.snapshots) == snapshot_bits(expected.snapshots)
    stored = [json.loads(each.results.read_text())["results"] for each in (first.files, expected)]
    assert stored[0] == stored[1]
    shutil.rmtree(inside / "by-hand")


def _holds(process, one):
    """Whether a process is that of the run: its command names the directory."""
    try:
        words = (process / "cmdline").read_bytes().decode().split("\0")
    except OSError:
        return False
    return "advtf.main" in words and f"--out_dir={one.path}" in words
