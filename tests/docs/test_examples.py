"""The worked examples of docs/examples are run, and what they define is compared with what is known."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture
def example():
    """Runs an example, as a module or as a script, and returns its names; registries stay as they were."""
    from advtf.data.registry import DATASETS
    from advtf.evaluation.attacks import ATTACKS
    from advtf.studies import STUDIES
    from advtf.training.methods import ADVERSARIES, OBJECTIVES
    from advtf.training.schedules import EPSILONS

    registries = OBJECTIVES, ADVERSARIES, EPSILONS, DATASETS, ATTACKS, STUDIES
    before = [dict(registry) for registry in registries]
    yield lambda name, run_name=None: runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=run_name)
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)


def run(*command, cwd):
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def linear(weights):
    """Two classes with logits (0, wᵀx): the worst perturbation of class 1 is −ε sign(w)."""
    import tensorflow as tf

    def logits_fn(x):
        margin = tf.reduce_sum(x * weights, axis=(1, 2, 3))
        return tf.stack([tf.zeros_like(margin), margin], axis=1)

    return logits_fn


def test_objective_is_its_formula(example):
    import tensorflow as tf

    from advtf.training.objectives import Batch

    rng = np.random.default_rng(0)
    x, x_adv = rng.random((2, 6, 3, 3, 1), np.float32)
    y, weights = rng.integers(0, 2, 6).astype(np.int32), rng.normal(size=(3, 3, 1)).astype(np.float32)
    batch = Batch(x, x_adv, y, tf.constant(0.1), tf.constant(0.5), tf.constant([0, 0], tf.int64), None, None)
    losses, accuracies = example("own_objective")["logit_pairing"](3.0)(linear(weights), batch)

    clean, robust = (np.einsum("bijc,ijc->b", images.astype(float), weights) for images in (x, x_adv))
    entropy = np.log1p(np.exp(np.where(y == 1, -robust, robust)))
    np.testing.assert_allclose(losses, entropy + 0.5 * 3.0 * (clean - robust) ** 2, rtol=1e-5)
    np.testing.assert_array_equal(accuracies["robust_accuracy"], (robust > 0) == (y == 1))


def test_adversary_finds_the_optimum_of_a_linear_model(example):
    import tensorflow as tf

    from advtf.attacks.losses import cross_entropy

    rng = np.random.default_rng(1)
    x = rng.uniform(0.3, 0.7, (5, 4, 4, 1)).astype(np.float32)
    weights = rng.normal(size=(4, 4, 1)).astype(np.float32)
    attack = example("own_adversary")["momentum"](4, 0.5, cross_entropy)
    found = attack(linear(weights), tf.constant(x), np.ones(5, np.int32), tf.constant(0.2), None)
    np.testing.assert_allclose(found, x - 0.2 * np.sign(weights), atol=1e-6)


def test_schedule_rises_with_the_root_and_restarts(example):
    import advtf

    example("own_schedule")
    schedule = advtf.epsilon_schedule("root", target=0.1, maximum=0.2, boundaries=[16], epochs=20)
    assert [schedule(position) for position in (0, 1, 4, 9, 16, 17)] == pytest.approx(
        [0, 0.05, 0.1, 0.1, 0, 0.1]
    )


def test_data_set_is_balanced_and_its_bars_are_bright(example):
    import advtf

    example("own_dataset")
    data = advtf.load_data("bars", val_fraction=0.1)
    assert (len(data.train), len(data.validation), len(data.test)) == (900, 100, 200)
    rows = data.test.images[..., 0].mean(axis=2).max(axis=1)
    columns = data.test.images[..., 0].mean(axis=1).max(axis=1)
    assert ((columns > rows) == data.test.labels).mean() > 0.99


@pytest.mark.slow
def test_commands_know_what_the_examples_register(tmp_path):
    """One run of advtf.main with an objective, an adversary, a schedule and a data set of one's own."""
    names = ("own_objective", "own_adversary", "own_schedule", "own_dataset")
    *others, last = [str(EXAMPLES / f"{name}.py") for name in names]
    (tmp_path / "all.py").write_text(
        "import runpy\n"
        + "".join(f"runpy.run_path({path!r})\n" for path in others)
        + f"runpy.run_path({last!r}, run_name='__main__')\n"
    )
    chosen = dict(objective="logit_pairing", adversary="momentum", eps_sched="root", dataset="bars")
    flags = [f"--{name}={value}" for name, value in chosen.items()]
    plan = run("all.py", *flags, "--attack_steps=3", "--out_dir=run", cwd=tmp_path)
    assert "logit_pairing 0.5 against momentum" in plan and "root" in plan
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert chosen.items() <= config.items() and config["strength"] == 0.5 and config["batch_size"] == 50
    last_epoch = json.loads((tmp_path / "run" / "evaluation.json").read_text())["results"]["last"]
    assert last_epoch["clean_error"] < 20  # 50 by chance


def test_help_of_an_example_lists_its_entry(tmp_path):
    shown = run(str(EXAMPLES / "own_objective.py"), "--help", cwd=tmp_path)
    assert "logit_pairing" in shown and shown.startswith("Adversarial logit pairing")


def test_attack_is_measured_beside_the_others(example, capsys):
    example("own_attack", "__main__")
    *_, header, row = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["model", "clean", "Corner", "PGD"]
    clean, corner, pgd, worst = map(float, row.split()[1:])
    assert clean <= corner < pgd <= worst  # random corners find less than gradients do


def test_study_writes_what_it_found_and_draws_it(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example("own_study", "__main__")
    found = re.search(r"loss ([\d.]+) under noise, ([\d.]+) under attack", capsys.readouterr().out)
    noisy, attacked = map(float, found.groups())
    assert noisy < attacked
    folder = tmp_path / "runs" / "own-study" / "noise"
    record = json.loads((folder / "noise.json").read_text())
    assert np.mean(record["noisy"]) == pytest.approx(noisy, abs=0.01) and len(record["noisy"]) == 5
    assert (folder / "noise.png").stat().st_size > 1000


SLURM = {  # what the script calls, as small scripts that leave a record
    "scontrol": 'if [ "$1" = show ]; then printf "node7\\nnode9\\n"; else echo "$@" >> requeued; fi',
    "srun": "trap 'kill -TERM $one $two' TERM\n"
    'SLURM_PROCID=0 "$@" & one=$!\nSLURM_PROCID=1 "$@" & two=$!\n'
    "wait $one; wait $two; wait $one; code=$?; wait $two; exit $code",
    "python": 'printf "%s\\n" "$TF_CONFIG" "$@" > worker$SLURM_PROCID\n'
    'if [ "$CODE" = 143 ]; then sleep 30 & trap "kill $!; exit 143" TERM; wait; fi\nexit $CODE',
}


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Starts the job script of SLURM in a folder; returns the process."""
    commands = tmp_path / "commands"
    commands.mkdir()
    for name, text in SLURM.items():
        (commands / name).write_text(f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "123456")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[7,9]")

    def start(code):
        monkeypatch.setenv("CODE", str(code))
        script = ["bash", EXAMPLES / "train.sbatch", "--out_dir=my run", "--lr=0.1"]
        return subprocess.Popen(script, cwd=tmp_path)

    return start


@pytest.mark.parametrize(("code", "again"), [(0, False), (2, False), (75, True)])
def test_a_job_of_slurm_tells_each_worker_who_it_is(job, tmp_path, monkeypatch, code, again):
    from advtf.training.cluster import Cluster

    assert job(code).wait(60) == code
    for index in (0, 1):
        config, *arguments = (tmp_path / f"worker{index}").read_text().splitlines()
        monkeypatch.setenv("TF_CONFIG", config)
        assert Cluster.of_process() == Cluster(("node7:23457", "node9:23458"), index)
        assert arguments == [
            "-m", "advtf.main", "--strategy=multi_worker", "--out_dir=my run", "--lr=0.1"
        ]  # fmt: skip
    requeued = tmp_path / "requeued"
    assert (requeued.read_text().split() if requeued.exists() else []) == ["requeue", "123456"] * again


def test_a_job_of_slurm_whose_time_ends_is_queued_again_and_continues(job, tmp_path):
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run" / "config.json").touch()
    process, deadline = job(143), time.monotonic() + 60
    while not (tmp_path / "worker1").exists() or not (tmp_path / "worker0").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)  # until the workers listen to signals
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 143
    assert (tmp_path / "requeued").read_text().split() == ["requeue", "123456"]
    assert (tmp_path / "worker1").read_text().endswith("\n--out_dir=my run\n--resume\n")
