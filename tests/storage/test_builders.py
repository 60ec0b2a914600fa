"""Recipes: what remembers how it was built, what does not, and what a file of another origin may ask for."""

import dataclasses
import functools

import keras
import numpy as np
import pytest

from advtf.attacks.pgd import fgsm, pgd
from advtf.errors import UsageError
from advtf.storage.builders import BuilderCall, builder_call, recorded, serialized
from advtf.training.objectives import trades


@recorded
def doubled(number, *, attack=None):
    return lambda: 2 * number


def test_a_call_holds_every_argument_and_builds_the_same_again():
    attack = fgsm("l2")
    made = doubled(4, attack=attack)
    assert builder_call(made).arguments == {"number": 4, "attack": attack}
    again = keras.saving.deserialize_keras_object(serialized("made", made))
    assert again() == made() == 8
    assert builder_call(builder_call(again).arguments["attack"]).arguments["norm"] == "l2"
    assert builder_call(pgd(steps=3)).arguments["relative_step"] == 0.25  # the defaults, too


def test_what_was_changed_has_no_call():
    attack, objective = pgd(), trades()
    wrapped = functools.wraps(attack)(lambda *arguments: attack(*arguments))
    assert builder_call(wrapped) is None
    assert builder_call(dataclasses.replace(objective, attacks=False)) is None
    assert builder_call(dataclasses.replace(objective)) is builder_call(objective)
    for other in (None, 3, [attack], {}):
        assert builder_call(other) is None


def test_plain_values_and_functions_of_keras_are_written():
    assert serialized("x", [None, True, 2, (0.5, "a")]) == [None, True, 2, [0.5, "a"]]
    assert type(serialized("x", np.float32(0.25))) is float and serialized("x", np.int64(3)) == 3
    written = serialized("x", keras.activations.relu)
    assert keras.saving.deserialize_keras_object(written) is keras.activations.relu


@pytest.mark.parametrize("value", [print, object(), keras.layers.Dense(1), {"a": 1}, pytest.mark])
def test_what_keras_would_not_find_again_is_refused(value):
    with pytest.raises(UsageError, match="x must be known to Keras to be saved") as refused:
        serialized("x", value)
    assert "\n" not in str(refused.value)


def test_a_file_names_no_module_to_import():
    config = {"builder": "other>attack", "module": "antigravity", "arguments": {}}
    with pytest.raises(UsageError, match=r"other>attack must be registered.*Import antigravity first"):
        BuilderCall.from_config(config)
