"""Subjects from live models, own exports, foreign SavedModels and ensembles: same logits, movable weights."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from advtf.classifiers.ensemble import build_ensemble
from advtf.classifiers.export import export_classifier, load_classifier
from advtf.classifiers.subject import as_subject
from advtf.errors import UsageError
from advtf.models import build

SHAPE = (8, 8, 1)


def images(n=4, shape=SHAPE):
    return np.random.default_rng(0).random((n, *shape), np.float32)


def normalised(seed=1):
    """A small network with BatchNorm whose running statistics are not the initial ones."""
    model = build("wide_resnet", SHAPE, 5, width=1, depth=10, seed=seed)
    rng = np.random.default_rng(seed)
    for variable in model.non_trainable_variables:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def exported(model, folder, config=None):
    metadata = {"config": config} if config else {}
    return export_classifier(model, folder, sample=images(), metadata=metadata)


def moved(subject):
    """The logits after every weight is scaled by 1.1, and whether the weights came back."""
    before = subject.parameters.value()
    with subject.parameters.at(1.1 * before):
        logits = subject.logits_fn(images()).numpy()
    assert np.array_equal(before, subject.parameters.value())
    return logits


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A network and its export."""
    model = normalised()
    return model, exported(model, tmp_path_factory.mktemp("run") / "last", CONFIG)


CONFIG = {"model": "wide_resnet", "width": 1, "depth": 10, "activation": "relu", "dataset": "digits"}


def test_own_export_is_rebuilt_alive_with_all_its_variables(saved):
    model, path = saved
    subject = as_subject(path)
    assert subject.name == f"{path.parent.name}/last" and subject.config["dataset"] == "digits"
    assert (subject.input_shape, subject.num_classes) == (SHAPE, 5)
    assert isinstance(subject.model, keras.Model) and subject.model is not model
    for old, new in zip(model.weights, subject.model.weights, strict=True):
        assert old.path == new.path and np.array_equal(old.numpy(), new.numpy())
    np.testing.assert_allclose(moved(subject), moved(as_subject(model)), rtol=1e-6)
    assert not np.allclose(moved(subject), model(images()), rtol=1e-2)


def test_any_other_saved_model_is_moved_through_its_own_variables(tmp_path):
    model = normalised()
    live = as_subject(model)
    foreign = as_subject(load_classifier(exported(model, tmp_path / "m")))
    assert foreign.model is None and foreign.config == {}
    assert foreign.parameters.names == live.parameters.names
    assert np.array_equal(foreign.parameters.value(), live.parameters.value())
    np.testing.assert_allclose(moved(foreign), moved(live), rtol=1e-5, atol=1e-6)


def test_saved_model_of_a_plain_module(tmp_path):
    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.kernel = tf.Variable(tf.random.stateless_normal((64, 3), (1, 2)), name="kernel")
            self.frozen = tf.Variable(tf.ones(3), trainable=False)

        @tf.function(input_signature=[tf.TensorSpec((None, *SHAPE))])
        def logits(self, image):
            return {"output": tf.reshape(image, (-1, 64)) @ self.kernel + self.frozen}

    module = Module()
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=module.logits)
    subject = as_subject(str(tmp_path / "m"))
    assert subject.parameters.size == 64 * 3
    expected = images().reshape(-1, 64) @ (1.1 * module.kernel.numpy()) + 1
    np.testing.assert_allclose(moved(subject), expected, rtol=1e-5)


def test_saved_ensemble_moves_all_members(tmp_path):
    members = [build("linear", SHAPE, 3, seed=seed) for seed in (0, 1)]
    path = export_classifier(build_ensemble(members), tmp_path / "e", kind="ensemble", sample=images())
    subject = as_subject(path)
    assert subject.model is None and subject.parameters.size == 2 * 65 * 3
    values = np.concatenate([as_subject(member).parameters.value() for member in members])
    assert np.array_equal(subject.parameters.value(), values)
    for member in members:
        as_subject(member).parameters.assign(1.1 * as_subject(member).parameters.value())
    np.testing.assert_allclose(moved(subject), build_ensemble(members)(images()), rtol=1e-5)


def test_live_model_runs_in_inference_mode_under_any_policy(saved):
    model, path = saved
    statistics = [variable.numpy() for variable in model.non_trainable_variables]
    np.testing.assert_array_equal(as_subject(model).logits_fn(images()), model(images(), training=False))
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        assert as_subject(path).model.compute_dtype == "float32"
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy(before)
    for old, variable in zip(statistics, model.non_trainable_variables, strict=True):
        assert np.array_equal(old, variable.numpy())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 2}, "a difference at"),
        ({"activation": "softplus"}, "logits that differ"),
        ({"model": "linear", "width": None, "depth": None}, "a difference at"),
    ],
)
def test_export_that_is_not_what_its_manifest_says(tmp_path, saved, wrong, message):
    path = shutil.copytree(saved[1], tmp_path / "m")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["config"] |= wrong
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=message):
        as_subject(path)


def test_what_has_no_weights_to_move_is_refused(tmp_path):
    with pytest.raises(UsageError, match="Received: function"):
        as_subject(lambda x: x)
    model = build("linear", SHAPE, 3)
    model.trainable = False
    with pytest.raises(UsageError, match=r"trainable variables\. Received: none in linear"):
        as_subject(model)
    with pytest.raises(UsageError, match="SavedModel folder"):
        as_subject(tmp_path / "nothing")
    unbuilt = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    with pytest.raises(UsageError, match="call it once first"):
        as_subject(unbuilt)
    unbuilt(images())
    assert (as_subject(unbuilt).input_shape, as_subject(unbuilt).num_classes) == (SHAPE, 3)
    picture = keras.Input(SHAPE)
    softmax = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(picture))
    with pytest.raises(UsageError, match="remove the softmax"):
        as_subject(keras.Model(picture, softmax))
    with pytest.raises(UsageError, match="logits"):
        as_subject(keras.Model(picture, keras.layers.Conv2D(2, 1)(picture)))
