"""Training runs built from their settings: every objective lowers its own loss, a strength is ramped."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
from helpers.resume import attempt
from helpers.run import epoch_values

from advtf import runtime
from advtf.classifiers.export import export_classifier
from advtf.data.batches import training_batches
from advtf.data.sets import load
from advtf.errors import UsageError
from advtf.training import methods
from advtf.training.methods import OBJECTIVES
from advtf.training.run import build_classifier, build_trainer
from advtf.training.settings import TrainConfig

STEPS, BATCH = 12, 64
SMALL = {"dataset": "digits", "model": "mlp", "width": 1, "eps": 0.05, "attack_steps": 2, "epochs": 1}
SMALL |= {"optimizer": "adam", "lr": 0.01, "eps_sched": "constant", "periods": "none", "batch_size": BATCH}
ADVERSARIES = {"trades": "pgd", "mart": "fgsm_r", "advlc": "fgsm_n", "igr": "none", "standard": "none"}


@functools.cache
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Two exported classifiers of other seeds."""
    folder = tmp_path_factory.mktemp("teachers")
    for seed in (1, 2):
        classifier = build_classifier(TrainConfig.of({**SMALL, "seed": seed}), digits())
        export_classifier(classifier, folder / str(seed), sample=digits().test.images[:4])
    return f"{folder / '1'},{folder / '2'}"


def trainer_of(name, teachers, **settings):
    needs = {"consistency": {"augment": True}, "kdsa": {"teachers": teachers}}.get(name, {})
    needs |= {"noised_clean": True} if name == "advlc" else {}
    config = TrainConfig.of({**SMALL, "objective": name, **needs, **settings})
    return build_trainer(config, digits(), runtime.start()), config


def stream(config, views):
    return training_batches(
        digits().train, BATCH, seed=0, total_steps=STEPS, augment=config.augment, views=views
    )


# Losses and gradients have tests of their own; a training of each takes long. These differ in what they need:
# a clean view, a second view, teachers, a loss that the attack climbs, perturbed weights.
TRAINED_EACH_TIME = [("advlc", 0.0), ("consistency", 0.0), ("kdsa", 0.0), ("trades", 0.0), ("at", 0.01)]
TRAINED_SLOWLY = [(name, 0.0) for name in OBJECTIVES if (name, 0.0) not in TRAINED_EACH_TIME]


@pytest.mark.parametrize(
    "name, awp",
    [*TRAINED_EACH_TIME, *(pytest.param(*case, marks=pytest.mark.slow) for case in TRAINED_SLOWLY)],
)
def test_loss_on_a_held_batch_falls(name, awp, teachers):
    adversary = ADVERSARIES.get(name, "pgd")
    trainer, config = trainer_of(name, teachers, adversary=adversary, awp=awp)
    data = stream(config, trainer.objective.views)
    (x, y), second_view = next(iter(data)), None
    if trainer.objective.views == 2:
        x, second_view = x
    held, _ = trainer._attack_batch(x, second_view, y, tf.constant([0, 0], tf.int64))

    def loss():  # eager: once before and once after is not worth a graph
        return tf.reduce_mean(trainer.objective.losses(trainer._logits_in_training, held)[0])

    before = float(loss())
    trainer.fit(data, shuffle=False, verbose=0)
    after = float(loss())
    assert np.isfinite(after) and after < before - 0.02 * abs(before)


@pytest.mark.parametrize(
    ("unit", "reached"),
    [
        pytest.param("epoch", [1 / 3, 2 / 3, 1], marks=pytest.mark.slow),
        ("step", [2 / 6, 4 / 6, 1]),
    ],
)
def test_a_ramped_strength_rises_to_the_whole(tmp_path, unit, reached):
    settings = SMALL | dict(objective="advlc", strength_ramp=True, epochs=3, steps_per_epoch=2)
    run = attempt(tmp_path / "run", settings | {"schedule_unit": unit}, minutes=10).run
    assert [record["strength"] for record in epoch_values(run.metrics)] == pytest.approx(reached)


def test_a_bad_teacher_is_called_a_teacher(teachers, tmp_path):
    first, second = teachers.split(",")
    config = TrainConfig.of({**SMALL, "objective": "kdsa", "teachers": teachers})
    with pytest.raises(UsageError, match=rf"teachers must take .* 28×28×1\. .*teachers={first} for 8×8×1"):
        methods.build_objective(config, 10, (28, 28, 1))
    with pytest.raises(
        UsageError, match=rf"have the 3 classes .* Received: teachers={first} with 10 classes"
    ):
        methods.build_objective(config, 3, (8, 8, 1))
    (tmp_path / "saved_model.pb").write_text("not a SavedModel")
    damaged = dataclasses.replace(config, teachers=(second, str(tmp_path)))
    with pytest.raises(UsageError, match=f"a teacher must load. Received: teachers={tmp_path}: "):
        methods.build_objective(damaged, 10, (8, 8, 1))
