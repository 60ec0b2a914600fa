"""Two workers on this machine: the numbers of one process, a killed worker and chief, and the way on."""

import dataclasses
import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import command
from helpers.resume import RUNTIME
from helpers.run import reached

from advtf.data.sets import load
from advtf.storage import jsonl
from advtf.training.cluster import LOST
from advtf.training.directory import TrainingDirectory
from advtf.training.run import build_trainer, train
from advtf.training.settings import RunOptions, TrainConfig
from launch.cluster import here
from launch.cluster.attempts import STRATEGY, Order, continued, outcome

# 10 steps. Nothing in them has a kink, at which rounding would become a difference: softplus, and l2 steps.
SETTINGS = [
    "--model=wide_resnet",
    "--depth=10",
    "--width=1",
    "--activation=softplus",
    "--norm=l2",
    "--eps=0.5",
]
SETTINGS += ["--epochs=2", "--steps_per_epoch=5", "--batch_size=32", "--augment=true", "--attack_steps=1"]
SETTINGS += ["--optimizer=sgd", "--lr=0.01", "--eps_sched=constant", "--periods=none", "--eval_examples=20"]
SETTINGS += ["--checkpoint_minutes=1e-9", "--dynamics_steps=2"]  # a checkpoint at every step
WITH_TWO = 8  # steps at least by two workers
PREPARED = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


def run_of(folder, name):
    return TrainingDirectory(folder / name, exports=folder / "saved_models" / name)


def workers_of(process):
    """The numbers of the processes that a launcher has started, the chief's first."""
    return [
        int(number) for number in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]


def kill(process, worker, run, step):
    """Kills a worker of a launcher when there is a checkpoint of this step; returns the numbers of all."""
    deadline = time.monotonic() + 60 * command.MINUTES
    while not reached(run.checkpoints, step):
        assert process.poll() is None and time.monotonic() < deadline, command.finish(process)
        time.sleep(0.002)
    workers = workers_of(process)
    os.kill(workers[worker], signal.SIGKILL)
    return workers


def started(folder, name, *arguments):
    """Starts two workers with the settings."""
    with pytest.MonkeyPatch.context() as patched:
        for variable, value in PREPARED.items():
            patched.setenv(variable, value)
        given = ("--workers=2", *arguments, "--", f"--out_dir={name}", *SETTINGS)
        return command.start("launch.cluster", folder, *given)


def trained_in_one_process(folder):
    """Trains with the settings in this process; returns the run."""
    given = dict(argument.removeprefix("--").split("=") for argument in SETTINGS)
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    config = TrainConfig.of({name: value for name, value in given.items() if name in names})
    options = RunOptions.of({name: value for name, value in given.items() if name not in names})
    run, digits = run_of(folder, "whole"), load("digits", val_fraction=config.val_fraction)
    run.path.mkdir()
    train(build_trainer(config, digits, RUNTIME), config, options, run, digits, report=print)
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained_in_one_process(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, whole):
    """Two workers, of which the chief is killed. The rest is done by one worker."""
    folder = tmp_path_factory.mktemp("cluster")
    run = run_of(folder, "two")
    two = started(folder, "two")
    numbers = kill(two, 0, run, WITH_TWO)
    began = time.monotonic()
    outcomes = {"two": command.finish(two)}
    seconds = time.monotonic() - began
    outcomes["resumed"] = command.run(
        "launch.cluster", folder, "--workers=1", "--", "--out_dir=two", "--resume"
    )
    return {"run": run, "outcomes": outcomes, "numbers": numbers, "seconds": seconds}


def assert_same_numbers(run, whole):
    with np.load(whole.snapshots / "last.npz") as one, np.load(run.snapshots / "last.npz") as two:
        arrays = [array for array in one.files if "/" in array]
        assert len(arrays) > 30  # BatchNorm's statistics among them
        for array in arrays:
            np.testing.assert_allclose(two[array], one[array], rtol=1e-6, atol=1e-6)
    for expected, found in zip(jsonl.read(whole.metrics), jsonl.read(run.metrics), strict=True):
        for measured in ("clean_accuracy", "robust_accuracy", "val_clean_accuracy", "val_robust_accuracy"):
            assert found[measured] == expected[measured]  # each a number of images
        for measured in ("loss", "val_loss", "gradient_norm", "distance_from_init"):
            assert found[measured] == pytest.approx(expected[measured], rel=1e-6)
    with np.load(whole.dynamics) as one, np.load(run.dynamics) as two:
        np.testing.assert_array_equal(two["robust_error"], one["robust_error"])
        np.testing.assert_allclose(two["distance"], one["distance"], rtol=1e-5)


def test_two_workers_compute_the_numbers_of_one_process(runs, whole):
    assert runs["outcomes"]["resumed"][0] == 0, runs["outcomes"]
    assert_same_numbers(runs["run"], whole)


def test_a_killed_chief_ends_its_worker_with_one_line(runs):
    code, _, error = runs["outcomes"]["two"]
    assert code == 128 + signal.SIGKILL
    (line,) = error.splitlines()
    assert line.startswith("error: all 2 workers must run until the training ends. Received: worker 0 (127.")
    assert "--resume" in line
    assert runs["seconds"] < 60  # seconds; the rest is the load of a machine under test


def test_another_number_of_workers_continues(runs):
    code, out, error = runs["outcomes"]["resumed"]
    assert (code, error) == (0, "")
    (step,) = re.findall(r"Continuing after step (\d+) of 10", out)
    assert int(step) >= WITH_TWO


def test_nothing_is_left_behind(runs):
    assert not any(Path(f"/proc/{number}").exists() for number in runs["numbers"])
    run = runs["run"]
    assert json.loads(run.config.read_text())["threads"] == {"intra_op": 1, "inter_op": 1}
    assert not [path.name for path in run.path.iterdir() if path.name.endswith(".partial")]


@pytest.mark.slow
def test_two_workers_begun_again_after_one_was_killed_compute_the_numbers_of_one_process(tmp_path, whole):
    run = run_of(tmp_path, "two")
    two = started(tmp_path, "two", "--max_failures=1")
    numbers = kill(two, 1, run, 2)
    code, out, error = command.finish(two)
    (line,) = error.splitlines()
    assert code == 0 and "A worker was lost. Starting all again (1 of 1)." in out
    assert line.startswith("error: all 2 workers must run until the training ends. Received: worker 1 (127.")
    assert "Continuing after step" in out and "Finished" in out
    assert not any(Path(f"/proc/{number}").exists() for number in numbers)
    assert_same_numbers(run, whole)


# In the place of advtf.main: a worker that is killed when the run has begun, and a chief that has lost it.
WORKER = """
import json, os, pathlib, signal, sys, time
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
config = pathlib.Path("two/config.json")
with open(f"told{index}", "a") as file:
    print(*sys.argv[1:], file=file)
if "--resume" in sys.argv:
    print(f"worker {index} ends", flush=True)
    sys.exit()
if index == 1:
    while not config.exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
config.parent.mkdir()
config.with_suffix(".new").write_text('{"id": "begun"}')
config.with_suffix(".new").rename(config)
time.sleep(0.2)
print("error: a worker was lost.", file=sys.stderr)
sys.exit(75)
"""


@pytest.mark.parametrize("max_failures", [0, 1])
def test_a_killed_worker_brings_all_back(tmp_path, monkeypatch, capfd, max_failures):
    (tmp_path / "advtf").mkdir()
    (tmp_path / "advtf" / "__init__.py").touch()  # or else an installed advtf would come first
    (tmp_path / "advtf" / "main.py").write_text(WORKER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    order = Order(2, 1, 0, max_failures, Path("two"), ["--out_dir=two", "--overwrite", "--seed=3"])
    code = here.train(order)
    out, error = capfd.readouterr()
    assert error == "error: a worker was lost.\n"
    first = f"{STRATEGY} --out_dir=two --overwrite --seed=3\n"
    for index in (0, 1):
        again = f"{STRATEGY} --out_dir=two --seed=3 --resume\n" * max_failures
        assert Path(f"told{index}").read_text() == first + again
    if max_failures:
        began, *ended = out.splitlines()
        assert (code, began) == (0, "A worker was lost. Starting all again (1 of 1).")
        assert sorted(ended) == ["worker 0 ends", "worker 1 ends"]
    else:
        assert (code, out) == (128 + signal.SIGKILL, "")


def test_only_a_run_that_has_begun_is_continued(tmp_path):
    run, given = run_of(tmp_path, "run"), ["--out_dir=run", "--overwrite", "--epochs=3"]
    assert continued(given, run, None) == given  # killed before anything was written
    run.path.mkdir()
    run.config.write_text('{"id": "earlier"}')
    before = run.identity()
    assert continued(given, run, before) == given  # still the run that is to be replaced
    run.config.write_text('{"id": "begun"}')
    assert continued(given, run, before) == ["--out_dir=run", "--epochs=3", "--resume"]


@pytest.mark.parametrize(
    ("codes", "signals", "expected"),
    [
        ({0: 0, 1: 0}, [], (0, False)),
        ({0: LOST, 1: -9}, [], (137, True)),
        ({0: LOST}, [], (LOST, True)),  # the other one stood still, and was ended by force
        ({0: 2, 1: 2}, [], (2, False)),
        ({0: 1, 1: LOST}, [], (1, False)),  # the disk of the chief was full
        ({0: 143, 1: 143}, [], (143, False)),  # somebody has stopped one of them
        ({0: 130, 1: -9}, [2, 2], (137, False)),
        ({}, [15, 15], (143, False)),
    ],
)
def test_only_an_attempt_that_has_lost_a_worker_is_repeated(codes, signals, expected):
    assert outcome(codes, signals) == expected


@pytest.mark.slow
def test_a_worker_with_other_flags_is_refused(tmp_path):
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in (first, second)]
    processes = []
    for index in (0, 1):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("TF_CONFIG", json.dumps(task))
            flags = ["--strategy=multi_worker", "--out_dir=run", f"--seed={index}"]
            processes.append(command.start("advtf.main", tmp_path, *flags))
    for code, _, error in map(command.finish, processes):
        assert code == 2
        (line,) = error.splitlines()
        assert line.startswith("error: all workers must have the same settings. Received: seed=1 in worker 1")
    assert not (tmp_path / "run").exists()
