"""An evaluation by several processes has the bits of one, whoever is killed."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.command import finish, start
from helpers.evaluate import EPSILON, EXPORT, FEW, digits, export_digits

from advtf.classifiers.classifier import as_classifier
from advtf.errors import UsageError
from advtf.evaluation import engine
from advtf.evaluation.report import EvaluationDirectory, write
from advtf.evaluation.run import EvaluateOptions, load
from advtf.evaluation.settings import AttackSettings
from advtf.evaluation.sharing import Alone, Shared, StageOver, threads_of_each
from advtf.processes import thread_settings

FORK = multiprocessing.get_context("fork")
NAMES = [f"batch{number}" for number in range(12)]


def work(folder, seconds=0.0, dies=None):
    """Takes part in a stage of 12 batches in `folder`; who computes a batch writes its own number into it."""

    def load(name):
        file = folder / name
        return file.read_text() if file.exists() else None

    def compute(number):
        if number == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(seconds)
        with open(folder / "computed", "a") as file:
            file.write(f"{number}\n")
        partial = folder / f"{os.getpid()}"
        partial.write_text(f"{number} by {os.getpid()}")
        partial.rename(folder / NAMES[number])
        return load(NAMES[number])

    return list(Shared(folder, leads=True).batches(NAMES, load, compute, lambda: False))


def test_every_batch_is_computed_once_and_everybody_gets_them_all(tmp_path):
    with FORK.Pool(3) as pool:
        found = pool.starmap(work, [(tmp_path, 0.02)] * 3, chunksize=1)
    assert found[0] == found[1] == found[2]
    assert [text.split()[0] for text in found[0]] == [str(number) for number in range(12)]
    assert sorted(map(int, (tmp_path / "computed").read_text().split())) == list(range(12))
    assert len({text.split()[-1] for text in found[0]}) > 1  # not one of them has done it all


def test_what_a_killed_process_had_taken_another_one_computes(tmp_path):
    dying = FORK.Process(target=work, args=(tmp_path, 0.0, 5))
    dying.start()
    dying.join()
    assert dying.exitcode == -signal.SIGKILL
    assert [text.split()[0] for text in work(tmp_path)] == [str(number) for number in range(12)]
    assert sorted(map(int, (tmp_path / "computed").read_text().split())) == list(range(12))


def test_whoever_is_left_behind_learns_that_the_stage_is_over(tmp_path):
    shared = Shared(tmp_path, leads=False)
    with pytest.raises(StageOver):
        list(shared.batches(NAMES, lambda name: None, lambda number: pytest.fail("computed"), lambda: True))


def test_a_process_without_its_leader_ends(tmp_path):
    def gone():
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        list(Shared(tmp_path, False, gone).batches(NAMES, lambda name: None, None, lambda: False))


def evaluated(folder, sharing):
    network, x, y = digits()
    settings = AttackSettings.of({"attacks": "square", "eps": EPSILON} | FEW)
    classifier = as_classifier(network, x[:70], y[:70], outputs="logits")
    return engine.evaluate_classifier(
        classifier, x[:70], y[:70], settings, state_dir=folder, checks=False, sharing=sharing
    )


@pytest.fixture(scope="module")
def expected():
    return evaluated(None, Alone())


def test_one_who_comes_late_takes_over_what_the_leader_has_ended(tmp_path, expected):
    leader = evaluated(tmp_path, Shared(tmp_path, leads=True))

    class Late(Shared):
        def batches(self, names, load, compute, over):
            pytest.fail("every stage is over")

    late = evaluated(tmp_path, Late(tmp_path, leads=False))
    for found in (leader, late):
        assert found.adversarial.tobytes() == expected.adversarial.tobytes()
        assert found.worst_case.loss.tobytes() == expected.worst_case.loss.tobytes()
        assert [each.spent.forward for each in found.attacks.values()] == [
            each.spent.forward for each in expected.attacks.values()
        ]


def test_a_stage_that_ends_while_another_collects_is_taken_from_the_disk(tmp_path, expected):
    """The leader ends all stages in the moment in which the other one begins the first."""
    calls = []

    class Overtaken(Shared):
        def batches(self, names, load, compute, over):
            calls.append(names)
            if len(calls) == 1:
                evaluated(tmp_path, Shared(tmp_path, leads=True))
                assert over()
            return super().batches(names, load, compute, over)

    found = evaluated(tmp_path, Overtaken(tmp_path, leads=False))
    assert len(calls) == 1  # what comes after it is over, too
    assert found.adversarial.tobytes() == expected.adversarial.tobytes()


def test_the_threads_are_shared_out_unless_they_are_given(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_of_each(count) for count in (1, 3, 20)] == [8, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads_of_each(3) == 5


def test_a_cluster_without_shards_is_refused():
    with pytest.raises(UsageError, match="cluster needs shards above 1"):
        EvaluateOptions.of({"cluster": "local"})


FLAGS = (
    *(f"--model={EXPORT}", "--num_examples=120", "--batch_size=16", "--steps=4", "--targets=1"),
    *("--queries=40", "--eps_grid=0.05", "--save_examples"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return export_digits(tmp_path_factory.mktemp("sharing"))


@pytest.fixture
def one_thread(monkeypatch):
    for name, value in thread_settings(1).items():
        monkeypatch.setenv(name, value)


def numbers(run):
    """What an evaluation has found, without what it took."""

    def kept(value):
        if isinstance(value, dict):
            return {key: kept(each) for key, each in value.items() if key not in varying}
        return [kept(each) for each in value] if isinstance(value, list) else value

    varying = ("seconds", "tracing_seconds", "command")
    with np.load(run.all_examples) as arrays:
        return kept(json.loads(run.results.read_text())), {name: arrays[name].tobytes() for name in arrays}


def evaluate(folder, out, *more, flags=FLAGS):
    return start("advtf.evaluate", folder, *flags, f"--out_dir={out}", *more)


def helpers_of(run):
    """The processes that take part in an evaluation beside its leader."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "advtf.evaluation.sharing" in words and str(run.path.name) in " ".join(words):
            found.append(int(process.name))
    return found


def done(process):
    code, out, error = finish(process)
    assert code == 0, out + error
    return out


def wait(process, ready):
    while not ready():
        assert process.poll() is None, finish(process)
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_autoattack_by_three_processes_has_the_bits_of_one(folder, one_thread, norm):
    flags = (*FLAGS, "--attacks=autoattack,pgd", f"--norm={norm}", f"--eps={0.08 if norm == 'linf' else 0.6}")
    done(evaluate(folder, f"one-{norm}", flags=flags))
    done(evaluate(folder, f"three-{norm}", "--shards=3", flags=flags))
    expected, found = (numbers(EvaluationDirectory(folder / f"{n}-{norm}")) for n in ("one", "three"))
    assert found == expected


@pytest.mark.slow
def test_killed_shards_and_a_killed_leader_change_no_bit(folder, one_thread):
    flags = (*FLAGS, "--attacks=apgd_ce,square", "--queries=3000", "--steps=40")
    done(evaluate(folder, "whole", flags=flags))
    run = EvaluationDirectory(folder / "killed")
    process = evaluate(folder, "killed", "--shards=3", flags=flags)
    wait(process, lambda: any(run.attacked.glob("*.npz")))
    first, *_ = helpers_of(run)
    os.kill(first, signal.SIGKILL)
    wait(process, lambda: len(list(run.attacked.glob("*.npz"))) > 2)
    process.kill()
    finish(process)
    deadline = time.monotonic() + 30
    while helpers_of(run):
        assert time.monotonic() < deadline  # the others end with their leader
        time.sleep(0.05)
    out = done(start("advtf.evaluate", folder, "--out_dir=killed", "--resume", "--shards=2"))
    assert "shards    2 processes" in out
    assert numbers(run) == numbers(EvaluationDirectory(folder / "whole"))
    assert not list(run.path.glob(".shards*")) and not run.attacked.exists()


@pytest.mark.slow
def test_two_processes_have_the_bits_of_one(folder, monkeypatch):
    for name, value in thread_settings(len(os.sched_getaffinity(0))).items():  # as this process has them
        monkeypatch.setenv(name, value)
    flags = (*(flag for flag in FLAGS if "grid" not in flag), "--attacks=pgd", "--pgd_steps=3")
    done(evaluate(folder, "two", "--shards=2", flags=flags))
    run, one = EvaluationDirectory(folder / "two"), EvaluationDirectory(folder / "one")
    settings, options = run.stored(AttackSettings, "config"), run.stored(EvaluateOptions, "options")
    monkeypatch.chdir(folder)
    classifier, x, y = load(settings, options)
    found = engine.evaluate_classifier(classifier, x, y, settings)
    source = {"path": options.model, "dataset": options.dataset, "order": options.order}
    one.path.mkdir()
    write(found, classifier, x, y, one, source=source, all_examples=True)
    assert numbers(run) == numbers(one)


@pytest.mark.slow
def test_on_a_ray_cluster_as_well(folder, one_thread):
    flags = (*FLAGS, "--attacks=apgd_ce,pgd", "--steps=3")
    done(evaluate(folder, "here", flags=flags))
    done(evaluate(folder, "ray", "--shards=2", "--cluster=local", flags=flags))
    expected, found = (numbers(EvaluationDirectory(folder / name)) for name in ("here", "ray"))
    assert found == expected
