"""Which objective and which adversary follow from the settings of a training."""

import keras
import numpy as np
import pytest

from advtf.storage.builders import serialized
from advtf.training import methods, regularizers
from advtf.training.methods import build_attack_from_gradient, build_objective
from advtf.training.settings import TrainConfig


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
        ({"attack_mode": "inference", "adversary": "fgsm"}, True),
        ({"attack_mode": "inference", "adversary": "fgsm", "objective": "logitalign"}, False),
        ({"attack_mode": "inference", "adversary": "fgsm_r"}, False),
        ({"attack_mode": "inference", "random_start": "none"}, False),
    ):
        config = TrainConfig.of(published | settings)
        assert bool(build_attack_from_gradient(config, build_objective(config, 10))) is expected


def test_the_flag_names_the_distances_that_the_objective_knows():
    assert list(methods.DISTANCES) == list(regularizers.DISTANCES)


@pytest.mark.parametrize("name", sorted(methods.OBJECTIVES.keys() - {"kdsa"}))  # kdsa loads its teachers
def test_an_entry_says_whether_its_objective_attacks(name):
    config = TrainConfig.of({"objective": name, "augment": True})
    assert methods.build_objective(config, 10).attacks == methods.OBJECTIVES[name].attacks


@pytest.mark.parametrize("adversary", sorted(methods.ADVERSARIES))
def test_what_the_registries_build_can_be_saved(adversary):
    for name in methods.OBJECTIVES.keys() - {"kdsa"}:
        config = TrainConfig.of({"objective": name, "adversary": "pgd", "augment": True})
        objective = methods.build_objective(config, 10)
        assert (
            keras.saving.deserialize_keras_object(serialized("objective", objective)).views == objective.views
        )
    attack = methods.build_adversary(TrainConfig.of({"objective": "standard", "adversary": adversary}))
    x = np.full((2, 3, 3, 1), 0.5, np.float32)
    logits_fn = keras.Sequential([keras.Input((3, 3, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    again = keras.saving.deserialize_keras_object(serialized("attack", attack))
    made = [np.asarray(one(logits_fn, x, np.array([0, 1]), 0.1, np.array([1, 2]))) for one in (attack, again)]
    np.testing.assert_array_equal(*made)
