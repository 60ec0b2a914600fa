"""Which objective and which adversary follow from the settings of a training."""

import pytest

from advtf.training import methods, regularizers
from advtf.training.methods import build_attack_from_gradient
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
    ):
        assert bool(build_attack_from_gradient(TrainConfig.of(published | settings))) is expected


def test_the_flag_names_the_distances_that_the_objective_knows():
    assert list(methods.DISTANCES) == list(regularizers.DISTANCES)


@pytest.mark.parametrize("name", sorted(methods.OBJECTIVES.keys() - {"kdsa"}))  # kdsa loads its teachers
def test_an_entry_says_whether_its_objective_attacks(name):
    config = TrainConfig.of({"objective": name, "augment": True})
    assert methods.build_objective(config, 10).attacks == methods.OBJECTIVES[name].attacks
