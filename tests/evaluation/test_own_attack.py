"""An attack of one's own: a function and one entry make it known to the library and to the command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from helpers.attack import Linear, digits_network
from helpers.evaluate import EPSILON, EXPORT, export_digits

import advtf
from advtf.attacks.random import uniform
from advtf.errors import UsageError
from advtf.evaluation.attacks import ATTACKS, EvaluationAttack
from advtf.evaluation.settings import AttackSettings
from advtf.settings.commands import define_flags, given_flags

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os
import time
from pathlib import Path
from runpy import run_module

import tensorflow as tf

from advtf.evaluation.attacks import ATTACKS, EvaluationAttack


def darker(logits_fn, x, y, epsilon, seed):
    Path(f"attacks-{os.getpid()}").touch()  # while it is traced
    while len(list(Path().glob("attacks-*"))) < int(os.environ["PROCESSES"]):
        time.sleep(0.05)
    return tf.maximum(x - epsilon, 0.0)


ATTACKS["darker"] = EvaluationAttack(
    "Darker", lambda builder: [builder.stage(darker, forward=0, backward=0)], black_box=True
)
run_module("advtf.evaluate", run_name="__main__")
"""


def corner(logits_fn, x, y, epsilon, seed):
    return tf.clip_by_value(x + epsilon * tf.sign(uniform(tf.shape(x), seed) - 0.5), 0.0, 1.0)


@pytest.fixture
def register(monkeypatch):
    """Adds an entry to the registry for one test."""
    return lambda name, entry: monkeypatch.setitem(ATTACKS, name, entry)


@pytest.mark.slow
def test_the_library_measures_it(register):
    def stages(builder):
        return [builder.stage(corner, forward=0, backward=0)] * builder.settings.restarts

    register("corner", EvaluationAttack("Corner", stages, black_box=True))
    model, call = Linear((4, 4, 1), 3), {"attacks": ["corner"], "epsilon": 0.05}
    x, _ = model.batch(80, low=0.3, high=0.7)
    y = model.logits(x).argmax(axis=1).astype(np.int32)
    once, often = (advtf.evaluate(model, x, y, **call, restarts=restarts) for restarts in (1, 20))
    assert 0 < once.robust_error < often.robust_error < 100
    assert str(once).splitlines()[1].split() == ["model", "clean", "Corner"]
    broken = once.worst_case.broken
    np.testing.assert_array_equal(model.logits(once.adversarial).argmax(axis=1) != y, broken)
    np.testing.assert_allclose(np.abs(once.adversarial - x)[broken], 0.05, atol=1e-6)
    # One check per example and restart, of those that are left.
    assert once.attacks["corner"].spent.forward == 80 and once.attacks["corner"].spent.backward == 0
    again = advtf.evaluate(model, x, y, **call, batch_size=7)
    np.testing.assert_array_equal(again.adversarial, once.adversarial)


def test_its_entry_says_what_it_requires(register):
    entry = EvaluationAttack("Mine", lambda builder: [], fewest_classes=4)
    register("mine", entry)
    x, y = Linear().batch(5)
    with pytest.raises(UsageError, match=r"mine requires at least 4 classes\. Received: 3"):
        advtf.evaluate(Linear(), x, y, attacks=["mine"])
    with pytest.raises(UsageError, match="Did you mean 'mine'"):
        advtf.evaluate(Linear(), x, y, attacks=["mimne"])


def test_a_point_outside_the_ball_is_not_counted(register):
    entry = EvaluationAttack(
        "Far",
        lambda builder: [builder.stage(lambda f, x, y, epsilon, seed: 1.0 - x, forward=0, backward=0)],
    )
    register("far", entry)
    model = Linear()
    x, _ = model.batch(40)
    y = model.logits(x).argmax(axis=1).astype(np.int32)
    found = advtf.evaluate(model, x, y, attacks=["far"], epsilon=0.01, checks=False)
    assert found.robust_error == 0 and "examples broken by far. The" in found.warnings[0]


def test_its_name_is_read_from_the_command_line(register):
    register("mine", EvaluationAttack("Mine", lambda builder: []))
    values = flags.FlagValues()
    define_flags(AttackSettings, flag_values=values)
    values(["evaluate", "--attacks=mine,pgd"])
    assert AttackSettings(**given_flags(values, AttackSettings)).attacks == ("mine", "pgd")


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 2])
def test_a_command_started_from_a_script_knows_it(tmp_path, shards):
    export_digits(tmp_path)
    (tmp_path / "own.py").write_text(SCRIPT)
    arguments = [f"--model={EXPORT}", "--attacks=darker", "--num_examples=50", "--out_dir=out"]
    arguments += [f"--shards={shards}", "--batch_size=5"]
    done = subprocess.run(
        [sys.executable, "own.py", *arguments],
        cwd=tmp_path,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "PROCESSES": str(shards),  # it waits until as many attack
        },
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Darker" in done.stdout and "warning: shard" not in done.stdout
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    network, x, y = digits_network()
    darker = np.maximum(x[:50] - np.float32(EPSILON), 0)
    wrong, attacked = (np.asarray(network(images)).argmax(axis=1) != y[:50] for images in (x[:50], darker))
    assert record["attacks"]["darker"]["broken"] == np.flatnonzero(attacked & ~wrong).tolist()
