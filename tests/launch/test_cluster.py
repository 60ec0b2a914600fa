"""Two workers on this machine: the numbers of one process, a killed worker and chief, and the way on."""

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
from helpers.run import reached

from advtf.storage import jsonl
from advtf.training.cluster import LOST
from advtf.training.directory import TrainingDirectory
from launch.cluster.attempts import continued, outcome

# 10 steps. Nothing in them has a kink, at which rounding would become a difference: softplus, and l2 steps.
SETTINGS = [
    "--model=wide_resnet",
    "--depth=10",
    "--width=1",
    "--activation=softplus",
    "--norm=l2",
    "--eps=0.5",
]
SETTINGS += ["--epochs=2", "--steps_per_epoch=5", "--batch_size=32", "--augment", "--attack_steps=1"]
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


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One process; and two workers, of which one is killed, then, when all work again, the chief. The rest is
    done by one worker."""
    folder = tmp_path_factory.mktemp("cluster")
    run = run_of(folder, "two")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in PREPARED.items():
            patched.setenv(name, value)
        two = command.start(
            "launch.cluster", folder, "--workers=2", "--max_failures=1", "--", "--out_dir=two", *SETTINGS
        )
        numbers = kill(two, 1, run, 2)
        whole = command.start("advtf.main", folder, *SETTINGS, "--out_dir=whole")
        numbers += kill(two, 0, run, WITH_TWO)
        began = time.monotonic()
        outcomes = {"two": command.finish(two)}
        seconds = time.monotonic() - began
        resumed = command.start("launch.cluster", folder, "--workers=1", "--", "--out_dir=two", "--resume")
        while not run_of(folder, "whole").results.exists():
            assert whole.poll() is None, command.finish(whole)
            time.sleep(0.1)
        whole.kill()  # nobody needs its figures and exports
        command.finish(whole)
        outcomes["resumed"] = command.finish(resumed)
    return {"folder": folder, "outcomes": outcomes, "numbers": numbers, "seconds": seconds}


def test_two_workers_compute_the_numbers_of_one_process(runs):
    assert runs["outcomes"]["resumed"][0] == 0, runs["outcomes"]
    whole, run = (run_of(runs["folder"], each) for each in ("whole", "two"))
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


def test_a_killed_worker_brings_all_back(runs):
    _, out, error = runs["outcomes"]["two"]
    assert "A worker was lost. Starting all again (1 of 1)." in out
    assert "Continuing after step" in out and "Finished" not in out
    assert error.splitlines()[0].startswith("error: all 2 workers must run until the training ends.")


def test_a_killed_chief_ends_its_worker_with_one_line(runs):
    code, _, error = runs["outcomes"]["two"]
    assert code == 128 + signal.SIGKILL
    first, second = error.splitlines()  # one for each attempt
    assert "Received: worker 1 (127." in first and "Received: worker 0 (127." in second
    assert "--resume" in second
    assert runs["seconds"] < 60  # seconds; the rest is the load of a machine under test


def test_another_number_of_workers_continues(runs):
    code, out, error = runs["outcomes"]["resumed"]
    assert (code, error) == (0, "")
    (step,) = re.findall(r"Continuing after step (\d+) of 10", out)
    assert int(step) >= WITH_TWO


def test_nothing_is_left_behind(runs):
    assert not any(Path(f"/proc/{number}").exists() for number in runs["numbers"])
    configs = [json.loads(run_of(runs["folder"], name).config.read_text()) for name in ("whole", "two")]
    assert [config["threads"] for config in configs] == [{"intra_op": 1, "inter_op": 1}] * 2
    left = [path.name for path in (runs["folder"] / "two").iterdir() if path.name.endswith(".partial")]
    assert not left


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
