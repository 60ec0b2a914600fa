"""Two workers on this machine: the numbers of one process, a killed worker and chief, and the way on."""

import json
import os
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import command
from helpers.run import reached

from advtf.storage import jsonl
from advtf.training.directory import TrainingDirectory
from launch.cluster.attempts import continued

# Ten steps. Nothing in them has a kink, at which rounding would become a difference: softplus, and l2 steps.
SETTINGS = [
    "--model=wide_resnet",
    "--depth=10",
    "--width=1",
    "--activation=softplus",
    "--norm=l2",
    "--eps=0.5",
]
SETTINGS += ["--epochs=2", "--steps_per_epoch=5", "--batch_size=32", "--augment", "--attack_steps=1"]
SETTINGS += ["--optimizer=sgd", "--lr=0.02", "--eps_sched=constant", "--periods=none", "--eval_examples=20"]
SETTINGS += ["--checkpoint_minutes=1e-9", "--dynamics_steps=2"]  # a checkpoint at every step
PREPARED = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


def run_of(folder, name):
    return TrainingDirectory(folder / name, exports=folder / "saved_models" / name)


def launched(folder, name, *own, flags=SETTINGS):
    return command.start("launch.cluster", folder, "--workers=2", *own, "--", f"--out_dir={name}", *flags)


def workers_of(process):
    """The numbers of the processes that a launcher has started, the chief's first."""
    return [
        int(number) for number in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]


def kill(victims):
    """Kills a worker of each launcher once its training is under way; returns the numbers of all workers.

    Args:
        victims: launcher -> the number of the worker, and the run.
    """
    numbers, waiting, deadline = [], dict(victims), time.monotonic() + 60 * command.MINUTES
    while waiting:
        for process, (worker, run) in list(waiting.items()):
            assert process.poll() is None and time.monotonic() < deadline, command.finish(process)
            if reached(run.checkpoints, 2):
                workers = workers_of(process)
                os.kill(workers[worker], signal.SIGKILL)
                numbers += workers
                del waiting[process]
        time.sleep(0.002)
    return numbers


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One process; two workers of which one is killed and started again; two of which the chief is killed."""
    folder = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in PREPARED.items():
            patched.setenv(name, value)
        whole = command.start("advtf.main", folder, *SETTINGS, "--out_dir=whole")
        again = launched(folder, "again", "--max_failures=1")
        headless = launched(folder, "headless")
        numbers = kill({again: (1, run_of(folder, "again")), headless: (0, run_of(folder, "headless"))})
        began = time.monotonic()
        outcomes = {"headless": command.finish(headless)}
        seconds = time.monotonic() - began
        resumed = command.start(
            "launch.cluster", folder, "--workers=1", "--", "--out_dir=headless", "--resume"
        )
        outcomes |= {"whole": command.finish(whole), "again": command.finish(again)}
        outcomes["resumed"] = command.finish(resumed)
    return {"folder": folder, "outcomes": outcomes, "numbers": numbers, "seconds": seconds}


@pytest.mark.parametrize("name", ["again", "headless"])
def test_two_workers_compute_the_numbers_of_one_process(runs, name):
    whole, run = (run_of(runs["folder"], each) for each in ("whole", name))
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
    code, out, error = runs["outcomes"]["again"]
    assert code == 0, error
    assert "A worker was killed. Starting all again (1 of 1)." in out
    assert "Continuing after step" in out and out.count("Finished in") == 1
    assert error.splitlines() == [
        line for line in error.splitlines() if line.startswith("error: all 2 workers")
    ]


def test_a_killed_chief_ends_its_worker_with_one_line(runs):
    code, _, error = runs["outcomes"]["headless"]
    assert code == 128 + signal.SIGKILL
    (line,) = error.splitlines()
    assert line.startswith("error: all 2 workers must run until the training ends. Received: worker 0 (127.")
    assert "--resume" in line
    assert runs["seconds"] < 60  # seconds; the rest is the load of a machine under test


def test_another_number_of_workers_continues(runs):
    code, out, error = runs["outcomes"]["resumed"]
    assert (code, error) == (0, "")
    assert "Continuing after step" in out


def test_nothing_is_left_behind(runs):
    assert not any(Path(f"/proc/{number}").exists() for number in runs["numbers"])
    configs = [json.loads(run_of(runs["folder"], name).config.read_text()) for name in ("whole", "again")]
    assert [config["threads"] for config in configs] == [{"intra_op": 1, "inter_op": 1}] * 2
    left = [path.name for path in (runs["folder"] / "again").iterdir() if path.name.endswith(".partial")]
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
