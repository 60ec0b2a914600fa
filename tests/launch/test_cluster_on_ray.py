"""One training by workers of Ray Train: what is refused, what the actor keeps, and a killed worker."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from helpers import command
from helpers.run import epoch_values, reached, snapshot_bits

from advtf import processes
from advtf.errors import UsageError
from advtf.processes import thread_settings
from advtf.training.directory import TrainingDirectory
from launch.cluster import on_ray
from launch.cluster.attempts import Order

SETTINGS = ["--model=mlp", "--width=1", "--epochs=3", "--steps_per_epoch=5", "--attack_steps=1"]
SETTINGS += ["--eval_examples=20", "--periods=none", "--batch_size=32", "--checkpoint_minutes=1e-9"]


def order(tmp_path):
    return Order(2, 1, 0, 0, tmp_path / "run", ["--out_dir=run"])


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    with pytest.raises(
        UsageError, match=r'Ray is not installed. Install it by pip install "advtf\[cluster\]"'
    ):
        on_ray.train("local", order(tmp_path))


def test_an_address_that_does_not_answer_is_refused_soon(tmp_path, monkeypatch):
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: object())  # Ray need not be here
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # without listening
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(UsageError, match=f"Received: cluster={address} \\(Connection refused"):
            on_ray.train(address, order(tmp_path))
    assert time.monotonic() - began < 10 and not list(tmp_path.iterdir())


def test_a_run_is_continued_by_the_command_that_has_started_its_workers(tmp_path, monkeypatch):
    here, there = order(tmp_path), Order(3, 2, 1, 0, tmp_path / "run", [], "head:6379")
    for asked, command_line in (
        (here, "python -m launch.cluster --workers=2 --threads=1 --"),
        (there, "python -m launch.cluster --workers=3 --threads=2 --cluster=head:6379 --gpus=1 --"),
    ):
        (name,) = asked.environment.keys() - thread_settings(1).keys()
        monkeypatch.setenv(name, asked.environment[name])
        told = TrainingDirectory(tmp_path / "run").resume_command
        assert told == f"{command_line} --out_dir={tmp_path / 'run'} --resume"


def test_an_address_where_something_else_listens_is_refused_soon(monkeypatch):
    monkeypatch.setattr(processes, "CONNECT_SECONDS", 0.5)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(UsageError, match="what listens there is not Ray"):
            processes._require_reachable(address)


def test_what_workers_leave_for_the_driver_and_for_each_other():
    board = on_ray._Board()
    assert board.begin("first", 0) == board.begin("first", 1) == (0, [])
    assert board.report("first", 0, [("out", "a\n")], None) == ([], False)
    assert board.report("first", 1, [("error", "b\n")], -9) == ([], True)  # this one was killed
    board.leave("first", 1)
    assert board.works("first")  # the other one still saves something
    assert board.report("first", 0, [], 75) == ([], True)
    board.leave("first", 0)
    assert not board.works("first") and board.codes() == {0: 75, 1: -9} and board.is_repeated("first")
    board.stop(signal.SIGINT)
    assert board.begin("second", 1) == (1, [signal.SIGINT]) and board.codes() == {}
    assert board.report("first", 0, [("out", "late\n")], 0) == ([signal.SIGINT], True)  # it is to end
    assert board.codes() == {} and not board.works("first") and board.works("second")
    news, working = board.news()
    assert working == 1 and board.news() == ([], 1)
    assert [each for each in news if each[-1]] == [
        (0, 0, "out", "a\n"),
        (0, 1, "error", "b\n"),
        (0, 0, "out", "late\n"),
    ]
    assert news[-2][0] == 1  # the driver learns of the second attempt


def workers_of(name):
    """The processes of a training by the name of its folder, the chief's first."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
            chief = b'"index": 0' in (process / "environ").read_bytes()
        except OSError:
            continue
        if "advtf.main" in words and f"--out_dir={name}" in words:
            found[int(process.name)] = chief
    return sorted(found, key=found.get, reverse=True)


@pytest.mark.slow
def test_a_killed_worker_brings_all_back_with_the_bits_of_an_undisturbed_training(tmp_path):
    name = f"ray-{os.getpid()}"
    here, there = (
        TrainingDirectory(tmp_path / each, exports=tmp_path / "saved_models" / each)
        for each in ("here", name)
    )
    code, out, error = command.run(
        "launch.cluster", tmp_path, "--workers=2", "--", "--out_dir=here", *SETTINGS
    )
    assert code == 0, out + error
    on_cluster = ["--workers=2", "--cluster=local", "--max_failures=1"]
    process = command.start("launch.cluster", tmp_path, *on_cluster, "--", f"--out_dir={name}", *SETTINGS)
    while not reached(there.checkpoints, 7):
        assert process.poll() is None, command.finish(process)
        time.sleep(0.01)
    _, worker = workers_of(name)
    os.kill(worker, signal.SIGKILL)
    code, out, error = command.finish(process)
    assert code == 0, out + error
    assert "A worker was lost. Starting all again (1 of 1)." in out and "Continuing after step" in out
    assert "error: all 2 workers must run until the training ends. Received: worker 1 (" in error
    assert epoch_values(there.metrics) == epoch_values(here.metrics)
    assert snapshot_bits(there.snapshots) == snapshot_bits(here.snapshots)
    assert not workers_of(name)
    assert {path.name for path in tmp_path.iterdir()} == {"here", name, "saved_models"}
    assert {path.name for path in there.path.iterdir()} == {path.name for path in here.path.iterdir()}
