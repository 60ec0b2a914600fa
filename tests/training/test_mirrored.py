"""MirroredStrategy over two logical CPUs, in a subprocess, against the single-device run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

DEVICES = """
import json
import tempfile
from pathlib import Path
from advtf.runtime import import_tensorflow, start

tf = import_tensorflow()
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
mirrored = start(strategy="mirrored")
single = tf.distribute.get_strategy()
report = {"device": mirrored.device, "replicas": mirrored.strategy.num_replicas_in_sync}
"""

STEPS = """
import keras
import numpy as np
from advtf.attacks.degraded import flipped
from advtf.attacks.pgd import fgsm_n, pgd
from advtf.training.callbacks import GradientDynamics
from advtf.models.layers import Layers
from advtf.training.objectives import adversarial
from advtf.training.optimizers import SGD
from advtf.training.regularizers import gradalign, logitalign
from advtf.training.trainer import AdversarialTrainer


def classifier(regularizer):
    layers = Layers("softplus", seed=0, synchronized=True)
    image = keras.Input((6, 6, 2))
    hidden = layers.norm_activate(layers.conv(image, 3, 3, "stem"), "stem")
    model = keras.Model(image, layers.logits(layers.flatten(hidden), 3))
    model.get_layer("logits").kernel_regularizer = regularizer
    return model


def data(size, count):
    rng = np.random.default_rng(0)
    x, y = rng.random((count, 6, 6, 2), np.float32), rng.integers(0, 3, count)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(size)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)


noisy_start = fgsm_n()


def train(strategy, attack, size, count, steps=None, objective=adversarial, evaluated=()):
    with strategy.scope():
        network = classifier(keras.regularizers.L2(0.01))
        trainer = AdversarialTrainer(network, attack, 0.1, objective=objective)
        trainer.compile(SGD(0.1, momentum=0.9, l2=0.01))
    stream = data(size, count)
    log = GradientDynamics(trainer.classifier, Path(tempfile.mkdtemp()) / "d.npz", updates=9, total=9)
    history = trainer.fit(
        stream, epochs=2, steps_per_epoch=steps, callbacks=[log], verbose=0, shuffle=False
    ).history
    measured = [trainer.evaluate(data(6, n), verbose=0, return_dict=True) for n in evaluated]
    return {
        "weights": [w.tolist() for w in trainer.classifier.get_weights()],
        "history": history, "measured": measured, "norm": float(trainer.gradient_norm.numpy()),
        "dynamics": log.rows,
    }


"""

AN_ATTACK_AND_TWO_VIEWS = """
for name, strategy in {"single": single, "mirrored": mirrored.strategy}.items():
    attack = flipped(pgd("l2", 3, 0.5, restarts=2), 0.25)
    report[name] = train(strategy, attack, 4, 23, steps=3, evaluated=(5, 8))  # objectives have no part in it
    report[name]["two_views"] = train(strategy, noisy_start, 4, 23, steps=3, objective=logitalign(1.0))
print(json.dumps(report))
"""

SECOND_ORDER = """
for name, strategy in {"single": single, "mirrored": mirrored.strategy}.items():
    report[name] = train(strategy, noisy_start, 4, 23, steps=3, objective=gradalign(1.0))
print(json.dumps(report))
"""

WHOLE_RUN = """
import dataclasses
from advtf.data import sets as images
from advtf.storage import jsonl
from advtf.training.directory import TrainingDirectory
from advtf.training.settings import RunOptions, TrainConfig
from advtf.training import run as whole

config = TrainConfig.of({
    "epochs": 2, "steps_per_epoch": 2, "periods": "1", "random_start": "none", "attack_steps": 2, "width": 1,
    "schedule_unit": "step", "reset_optimizer": True, "seed": 3, "averaging": "ema", "ema_decay": 0.5,
})
digits = images.load("digits", val_fraction=0.1)
for name, runtime in {
    "single": dataclasses.replace(mirrored, strategy=single), "mirrored": mirrored
}.items():
    run = TrainingDirectory(Path(tempfile.mkdtemp()))
    trainer = whole.build_trainer(config, digits, runtime)
    whole.train(trainer, config, RunOptions(dynamics_steps=2), run, digits, report=lambda line: None)
    report[name] = {
        "epochs": jsonl.read(run.metrics), "snapshots": sorted(path.name for path in run.snapshots.iterdir())
    }
print(json.dumps(report))
"""


def run(script):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", DEVICES + script],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if done.returncode:
        pytest.fail(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def report():
    return run(STEPS + AN_ATTACK_AND_TWO_VIEWS)


def test_two_replicas(report):
    assert report["replicas"] == 2
    assert report["device"].startswith("CPU")


@pytest.mark.parametrize("case", ["random_attack", "two_views"])
def test_equals_the_single_device_run(report, case):
    single, mirrored = (report[name].get(case, report[name]) for name in ("single", "mirrored"))
    assert_equal(single, mirrored)
    assert len(single["measured"]) == (2 if case == "random_attack" else 0)


@pytest.mark.slow
def test_a_second_order_objective_equals_the_single_device_run():
    report = run(STEPS + SECOND_ORDER)
    assert_equal(report["single"], report["mirrored"])


def assert_equal(single, mirrored):
    # One pass over six batches in two epochs of three. The last batch of 3 splits into 2 + 1, and every
    # example must weigh the same, and draw the same random numbers as in the whole batch. Evaluated: 5 as
    # 3 + 2, then 8 as 3 + 3 and 2 + 0.
    for one, two in zip(single["weights"], mirrored["weights"], strict=True):
        np.testing.assert_allclose(two, one, atol=3e-6)
    assert mirrored["norm"] == pytest.approx(single["norm"], rel=1e-4)
    np.testing.assert_allclose(mirrored["dynamics"], single["dynamics"], rtol=1e-4)
    for one, two in zip(single["measured"], mirrored["measured"], strict=True):
        assert two == pytest.approx(one, rel=1e-5)
    for name, values in single["history"].items():
        assert mirrored["history"][name] == pytest.approx(values, rel=1e-5)


@pytest.mark.slow
def test_a_whole_run_equals_the_single_device_one():
    report = run(WHOLE_RUN)
    single, mirrored = report["single"], report["mirrored"]
    assert mirrored["snapshots"] == single["snapshots"] and "last.npz" in single["snapshots"]
    for one, two in zip(single["epochs"], mirrored["epochs"], strict=True):
        for name in ("loss", "val_loss", "gradient_norm", "distance_from_init", "epsilon", "learning_rate"):
            assert two[name] == pytest.approx(one[name], rel=1e-4), name
