"""Many runs at a time: failures, kills of runs and of the driver, Ctrl-C. The runs are stand-ins without
TensorFlow."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.command import ROOT, environment
from helpers.sweep import EPOCHS, stand_ins

from advtf import processes
from advtf.errors import UsageError
from advtf.processes import spawn
from launch.common import executors
from launch.common.driver import carry_out
from launch.common.live import LiveTable, duration

SECONDS = 60


def python_path():
    return environment(ROOT / "tests")


@pytest.fixture(autouse=True)
def imported(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", python_path()["PYTHONPATH"])


def until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()


def starts(run):
    """The numbers of the processes that have worked on a run."""
    file = Path(f"{run.path}.starts")
    return [int(line) for line in file.read_text().split()] if file.exists() else []


@pytest.fixture
def driving(tmp_path):
    """Starts a driver of four runs in a process of its own."""
    begun = []

    def start():
        command = [sys.executable, "-m", "helpers.sweep", "drive", str(tmp_path)]
        begun.append(
            subprocess.Popen(command, env=python_path(), stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        )
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def test_what_fails_stops_nothing_and_what_is_killed_is_continued(tmp_path, capsys):
    runs = stand_ins(tmp_path, bad="fail", dying="die once", full="train", good="train", done="train")
    (tmp_path / "logs").mkdir()
    runs[2].log.symlink_to("/dev/full")  # the disk of one run takes nothing
    carry_out(runs[4:], executors.LocalProcesses(1, 1))
    seen = []
    outcomes = carry_out(
        runs, executors.LocalProcesses(2, 1), retries=1, ended=lambda one: seen.append(one) or ""
    )
    assert [one.state for one in outcomes] == ["failed", "finished", "failed", "finished", "finished"]
    assert outcomes[0].reason == "exit code 1" and "room for" in outcomes[2].reason
    assert [len(starts(run)) for run in runs] == [1, 2, 0, 1, 1] and len(seen) == 4
    assert all(len(runs[i].files.metrics.read_text().splitlines()) == EPOCHS for i in (1, 3, 4))
    said = capsys.readouterr().out
    assert (
        "    | the loss is not finite" in said and "killed         dying (SIGKILL), to be continued" in said
    )


def test_a_run_waits_for_those_that_it_needs_and_fails_with_them(tmp_path, capsys):
    runs = stand_ins(tmp_path, user="train", user_of_bad="train", slow="slow", bad="fail")
    runs[0] = dataclasses.replace(runs[0], after=(runs[2].path,))
    runs[1] = dataclasses.replace(runs[1], after=(runs[3].path,))
    outcomes = carry_out(runs, executors.LocalProcesses(4, 1))
    assert [one.state for one in outcomes] == ["finished", "failed", "finished", "failed"]
    assert outcomes[1].reason == "needs bad, which has failed" and starts(runs[1]) == []
    said = capsys.readouterr().out
    assert said.index("finished       slow") < said.index("started        user\n")


def test_a_run_that_is_killed_again_and_again_fails(tmp_path):
    (run,) = stand_ins(tmp_path, dying="die once")
    (outcome,) = carry_out([run], executors.LocalProcesses(1, 1))
    assert (outcome.state, outcome.reason) == ("failed", "killed by SIGKILL")


def test_a_killed_driver_takes_its_runs_along_and_the_next_one_finishes_them(tmp_path, driving):
    runs = stand_ins(tmp_path, a="slow", b="train", c="slow", d="train")
    first = driving()
    until(lambda: runs[0].epochs_done() and starts(runs[1]))
    first.kill()
    first.wait()
    second = driving()
    out, _ = second.communicate(timeout=SECONDS)
    assert json.loads(out.splitlines()[-1]) == ["finished"] * 4
    assert not alive(starts(runs[0])[0]) and len(starts(runs[0])) == 2
    for run in runs:  # no epoch is trained twice, nobody has worked beside another one
        assert [json.loads(line)["epoch"] for line in run.files.metrics.open()] == [1, 2, 3, 4]


def test_a_run_that_another_process_works_on_is_waited_for_and_not_started(tmp_path, capsys):
    (run,) = stand_ins(tmp_path, a="slow")
    other = spawn(run.command(), run.log, str(tmp_path), {})
    assert run.in_use()  # from the first moment on, before the process has locked the directory itself
    with pytest.raises(UsageError, match="must not be in use"):
        spawn(run.command(), run.log, str(tmp_path), {})
    (outcome,) = carry_out([run], executors.LocalProcesses(1, 1))
    assert other.wait() == 0 and not run.in_use()
    assert (outcome.state, outcome.attempts, len(starts(run))) == ("finished", 0, 1)
    assert "waiting for    a, which another process works on" in capsys.readouterr().out


def test_ctrl_c_lets_the_runs_save_and_the_same_command_continues(tmp_path, driving):
    runs = stand_ins(tmp_path, a="slow", b="train", c="slow", d="train")
    process = driving()
    until(lambda: runs[0].epochs_done())
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 130 and "Stopped by SIGINT. Continue with: the same command" in out
    assert "saving a checkpoint" in runs[0].log.read_text() and not any(run.in_use() for run in runs)
    out, _ = driving().communicate(timeout=SECONDS)
    assert json.loads(out.splitlines()[-1]) == ["finished"] * 4 and len(starts(runs[0])) == 2


def test_ctrl_c_twice_ends_at_once(tmp_path):
    (run,) = stand_ins(tmp_path, a="train")
    stubborn = [sys.executable, "-c", "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('on', flush=True)\ntime.sleep(60)"]  # fmt: skip # noqa: E501
    script = (
        "from helpers.sweep import *\n"
        f"Run.command = lambda self: {stubborn!r}\n"
        "try: driver.carry_out([Run('a', ())], executors.LocalProcesses(1, 1))\n"
        "except driver.Interrupted as stop: driver.end_by(stop, 'it')\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command, env=python_path(), stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        until(lambda: run.log.exists() and "\non\n" in run.log.read_text())
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None  # it waits for the run
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 130 and "Ended at once by SIGINT. Continue with: it" in out
    until(lambda: not run.in_use())


def test_each_gpu_has_one_run(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    local = executors.LocalProcesses(None, 1)
    assert (local.jobs, local.room()) == (2, 2)
    show = (
        "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS']); "
        "time.sleep(1)"
    )
    runs = stand_ins(tmp_path, a="train", b="train")
    attempts = [local.start(run, [sys.executable, "-c", show]) for run in runs]
    assert local.room() == 0
    until(lambda: all(attempt.code() == 0 for attempt in attempts))
    assert [processes.last_lines(run.log, 1) for run in runs] == [["3 1"], ["5 1"]] and local.room() == 2


@pytest.mark.parametrize(
    ("address", "words"),
    [("head:x", "must be host:port"), ("127.0.0.1:9", "must answer at the address"), ("head", "host:port")],
)
def test_a_cluster_that_does_not_answer_is_refused(address, words, monkeypatch):
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(UsageError, match=words):
        executors.RayTasks(address, None, 1, 0)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install \"advtf\[cluster\]\""):
        executors.RayTasks("local", None, 1, 0)


def test_the_live_table_shows_what_fits(tmp_path):
    runs = stand_ins(tmp_path, a="train", b="train", c="train")
    outcomes = carry_out(runs[:1], executors.LocalProcesses(1, 1))
    from launch.common.driver import Outcome

    runs[1].files.path.mkdir()
    runs[1].files.metrics.write_text("{}\n{}\n")
    outcomes += [Outcome(runs[1], "running"), Outcome(runs[2])]
    table = LiveTable(outcomes)
    rows = table.rows(3)
    assert "epoch 3/4" in rows[1] and rows[1].count("━") == 10 and rows[0].count("━") == 20
    assert [row.split()[1] for row in table.rows(1)] == ["b"]  # what is done needs no line
    assert table.summary().startswith("3 runs: 1 finished, 1 waiting, 1 running; ")


@pytest.mark.parametrize(("seconds", "text"), [(41.2, "41 s"), (720, "12 min"), (11_100, "3 h 05 min")])
def test_durations_are_short(seconds, text):
    assert duration(seconds) == text


@pytest.mark.slow
def test_ray_carries_out_the_same_and_a_killed_driver_is_continued(tmp_path):
    runs = stand_ins(tmp_path, a="slow", b="train", c="slow", d="train")
    command = [sys.executable, "-m", "helpers.sweep", "drive", str(tmp_path), "local"]
    with subprocess.Popen(
        command, env=python_path(), stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as first:
        until(lambda: runs[0].epochs_done())
        first.kill()
    done = subprocess.run(
        command, env=python_path(), stdout=subprocess.PIPE, text=True, cwd=tmp_path, timeout=240
    )
    assert json.loads(done.stdout.splitlines()[-1]) == ["finished"] * 4
    for run in runs:
        assert [json.loads(line)["epoch"] for line in run.files.metrics.open()] == [1, 2, 3, 4]
