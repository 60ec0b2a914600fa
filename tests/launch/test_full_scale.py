"""The ledger at the papers' settings: every recipe is a run of an entry; the first steps of each training.

The steps are those of small batches of generated images, in one process; the networks, methods and optimizers
are the papers'.
"""

import dataclasses
import gc
import math

import numpy as np
import pytest

import advtf
from advtf import models
from advtf.classifiers.export import export_classifier
from advtf.data.batches import training_batches
from advtf.data.registry import DATASETS
from advtf.settings.flagfiles import recipes
from advtf.training.directory import TrainingDirectory
from launch.reproduce.plan import Lab, Plan
from launch.reproduce.registry import ENTRIES
from launch.reproduce.scales import SCALES, TASKS

STEPS, BATCH = 2, 4
METHOD = (
    *("dataset", "model", "objective", "adversary", "advlc_distance", "averaging", "attack_mode"),
    *("optimizer", "lr_sched", "noised_clean", "strength_ramp", "eps_sched"),
)


def trainings():
    """All trainings of the scale, by the names of their directories."""
    plan = Plan(SCALES["full"], "out")
    asked = [one for entry in ENTRIES for one in plan.of(entry, 0).values()]
    return {one.name: one.settings for one in plan.needed(asked) if one.kind is TrainingDirectory}


def of_papers():
    return [name for name in recipes() if any(name.startswith(f"{task}_") for task in TASKS)]


def test_every_recipe_of_the_papers_is_a_run_of_an_entry():
    lab, found = Lab(Plan(SCALES["full"], "out"), 0), trainings()
    plain = [name for name in of_papers() if not name.endswith("_base") and "kdsa" not in name]
    assert len(plain) > 50
    assert [name for name in plain if lab.train(name).name not in found] == []
    # The teachers of kdsa are exports of this plan, and not those that its recipe names.
    methods = {(each.adversary, each.averaging) for each in found.values() if each.objective == "kdsa"}
    assert methods == {(adversary, each) for adversary in ("fgsm_n", "pgd") for each in ("none", "swa")}


def methods():
    """One training of each method on each network, by a name that says which it is."""
    return {tuple(getattr(each, name) for name in METHOD): each for each in trainings().values()}


def images(config):
    """Random images in the shape of the data set, a few of each part."""
    entry, rng = DATASETS[config.dataset], np.random.default_rng(0)
    shape, classes = entry.input_shape or (64, 64, 3), entry.num_classes or 200
    parts = {}
    for part, count in (("train", STEPS * BATCH * 2), ("test", 4)):
        parts[f"x_{part}"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        parts[f"y_{part}"] = rng.integers(0, classes, count)
    return advtf.from_arrays(**parts, num_classes=classes, val_fraction=0.0)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    made = []
    for seed in (1, 2):
        model = models.build("linear", (32, 32, 3), 10, seed=seed)
        made.append(str(export_classifier(model, folder / str(seed), sample=np.zeros((2, 32, 32, 3), "f4"))))
    return tuple(made)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(methods())))
def test_the_first_steps_of_every_method_at_full_scale(number, teachers):
    from advtf.runtime import start
    from advtf.training.run import build_trainer

    config = list(methods().values())[number]
    changes = {"batch_size": BATCH, "jit": "off"}
    if config.objective == "kdsa":
        changes["teachers"] = teachers
    config = dataclasses.replace(config, **changes)
    data = images(config)
    trainer = build_trainer(config, data, start(jit="off"))
    trainer.epsilon.assign(config.eps)
    before = [variable.numpy() for variable in trainer.classifier.trainable_variables]
    views = 2 if config.objective == "consistency" else 1
    batches = training_batches(
        data.train,
        BATCH,
        seed=0,
        steps_per_epoch=STEPS,
        total_steps=STEPS,
        augment=config.augment,
        views=views,
    )
    logs = trainer.fit(batches, steps_per_epoch=STEPS, epochs=1, verbose=0, shuffle=False).history
    after = [variable.numpy() for variable in trainer.classifier.trainable_variables]
    assert math.isfinite(logs["loss"][0])
    assert all(np.isfinite(each).all() for each in after)
    moved = [not np.array_equal(one, two) for one, two in zip(before, after, strict=True)]
    assert np.mean(moved) > 0.9
    gc.collect()
