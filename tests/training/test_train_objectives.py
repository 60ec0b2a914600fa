"""Every objective, as the command builds it, trained for a few steps on digits: its own loss falls."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from helpers.resume import attempt
from helpers.run import epoch_values
from helpers.trainer import batch, compiled, convolutional_net, still

from advtf import runtime
from advtf.attacks.pgd import fgsm, fgsm_n, noisy, pgd, pgd_onwards
from advtf.classifiers.export import export_classifier
from advtf.data.sets import load, training_batches
from advtf.errors import UsageError
from advtf.training import objectives, regularizers
from advtf.training.method_settings import STRENGTHS
from advtf.training.methods import build_onwards
from advtf.training.run import build_classifier, build_trainer
from advtf.training.settings import resolve

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
        classifier = build_classifier(resolve({**SMALL, "seed": seed}), digits())
        export_classifier(classifier, folder / str(seed), sample=digits().test.images[:4])
    return f"{folder / '1'},{folder / '2'}"


def trainer_of(name, teachers, **settings):
    needs = {"consistency": {"augment": True}, "kdsa": {"teachers": teachers}}.get(name, {})
    needs |= {"noised_clean": True} if name == "advlc" else {}
    config = resolve({**SMALL, "objective": name, **needs, **settings})
    return build_trainer(config, digits(), runtime.start()), config


def stream(config, views):
    return training_batches(
        digits().train, BATCH, seed=0, total_steps=STEPS, augment=config.augment, views=views
    )


@pytest.mark.parametrize("name, awp", [*((name, 0.0) for name in STRENGTHS), ("at", 0.01)])
def test_loss_on_a_held_batch_falls(name, awp, teachers):
    adversary = ADVERSARIES.get(name, "pgd")
    trainer, config = trainer_of(name, teachers, adversary=adversary, awp=awp)
    data = stream(config, trainer.objective.views)
    (x, y), neighbor = next(iter(data)), None
    if trainer.objective.views == 2:
        x, neighbor = x
    held = trainer._attacked(x, neighbor, y)

    def loss():  # eager: once before and once after is not worth a graph
        return tf.reduce_mean(trainer.objective.losses(trainer._training, held)[0])

    before = float(loss())
    trainer.fit(data, shuffle=False, verbose=0)
    after = float(loss())
    assert np.isfinite(after) and after < before - 0.02 * abs(before)


SHARED = {  # the attack, the rest of it from its first gradient, the clean images, its passes
    "fgsm": (fgsm(), pgd_onwards(steps=1, relative_step=1.0), None, 1),
    "fgsm_n": (fgsm_n(), pgd_onwards(steps=1, relative_step=1.0), noisy(), 1),
    "pgd": (pgd(steps=3, relative_step=0.5, random_start="none"), pgd_onwards("linf", 3, 0.5), None, 3),
}


PAIRS = {
    "fgsm_n": regularizers.advlc(2.0, 0.3),
    "pgd": objectives.mart(),
    "fgsm": objectives.adversarial_minus_standard(),
}


@pytest.mark.parametrize("adversary", PAIRS)
def test_sharing_the_first_pass_saves_one_and_changes_no_weight(adversary):
    attack, onwards, view, passes = SHARED[adversary]
    x, y = batch(12, shape=(6, 6, 2))
    weights, counts = [], []
    for shared in (None, onwards):
        trainer = compiled(
            convolutional_net(),
            attack,
            objective=PAIRS[adversary],
            clean_view=view,
            attack_mode="training",
            onwards=shared,
            eager=True,
        )
        seen, training = [], trainer._training
        trainer._training = lambda images, seen=seen, training=training: seen.append(1) or training(images)
        trainer.fit(still(x, y, 6), shuffle=False, verbose=0)
        weights.append([weight.numpy() for weight in trainer.classifier.trainable_variables])
        counts.append(len(seen) / 2)
    assert counts == [passes + 2, passes + 1]
    for apart, together in zip(*weights, strict=True):
        np.testing.assert_allclose(together, apart, atol=2e-6)


def test_sharing_follows_from_the_settings():
    published = {"dataset": "cifar10", "attack_mode": "training"}
    shares = {"objective": "advlc", "adversary": "fgsm_n", "noised_clean": True}
    for settings, expected in (
        (shares, True),
        (shares | {"noised_clean": False}, False),
        (shares | {"attack_mode": "inference"}, False),
        (shares | {"awp": 0.01}, False),
        (shares | {"objective": "igr"}, False),
        ({"objective": "mart", "random_start": "none"}, True),
        ({"objective": "mart", "random_start": "uniform"}, False),
    ):
        assert bool(build_onwards(resolve(published | settings))) is expected
    with pytest.raises(UsageError, match="onwards needs"):
        compiled(onwards=pgd_onwards(), attack_mode="inference")


@pytest.mark.parametrize(("unit", "reached"), [("epoch", [0, 0.5, 1]), ("step", [1 / 6, 0.5, 5 / 6])])
def test_a_ramped_strength_rises_to_the_whole(tmp_path, unit, reached):
    settings = SMALL | dict(objective="advlc", strength_ramp=True, epochs=3, steps_per_epoch=2)
    run = attempt(tmp_path / "run", settings | {"schedule_unit": unit}, minutes=10).run
    assert [record["strength"] for record in epoch_values(run.metrics)] == pytest.approx(reached)
