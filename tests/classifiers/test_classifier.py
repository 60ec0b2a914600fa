"""Classifiers from live models, exports, foreign SavedModels and ensembles: same logits, movable weights."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from advtf.classifiers.classifier import as_classifier, as_subject
from advtf.classifiers.ensemble import build_ensemble
from advtf.classifiers.export import export_classifier, load_classifier
from advtf.errors import UsageError
from advtf.models import build

SHAPE = (8, 8, 1)


def images(n=4, shape=SHAPE):
    return np.random.default_rng(0).random((n, *shape), np.float32)


def normalised(seed=1, **variant):
    """A small network with BatchNorm whose running statistics are not the initial ones."""
    model = build("wide_resnet", SHAPE, 5, width=1, depth=10, seed=seed, **variant)
    rng = np.random.default_rng(seed)
    for variable in model.non_trainable_variables:  # a large mean would silence all units behind it
        low, high = (0.05, 0.2) if variable.name == "moving_variance" else (-0.1, 0.1)
        variable.assign(rng.uniform(low, high, variable.shape))
    return model


def exported(model, folder, config=None):
    metadata = {"config": config} if config else {}
    return export_classifier(model, folder, sample=images(), metadata=metadata)


def moved(classifier):
    """The logits after every weight is scaled by 1.1, and whether the weights came back."""
    before = classifier.parameters.value()
    with classifier.parameters.at(1.1 * before):
        logits = classifier.logits_fn(images()).numpy()
    assert np.array_equal(before, classifier.parameters.value())
    return logits


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A network and its export."""
    model = normalised()
    return model, exported(model, tmp_path_factory.mktemp("run") / "last", CONFIG)


EARLIER = {"model": "wide_resnet", "width": 1, "depth": 10, "activation": "relu", "dataset": "digits"}
CONFIG = EARLIER | {"shortcut": "raw", "stride_in": "second"}
LINEAR = dict.fromkeys(CONFIG.keys() - {"activation", "dataset"}) | {"model": "linear"}


def test_own_export_is_rebuilt_alive_with_all_its_variables(saved):
    model, path = saved
    classifier = as_classifier(path, movable=True)
    assert classifier.name == f"{path.parent.name}/last" and classifier.config["dataset"] == "digits"
    assert (classifier.input_shape, classifier.num_classes) == (SHAPE, 5)
    assert isinstance(classifier.model, keras.Model) and classifier.model is not model
    for old, new in zip(model.weights, classifier.model.weights, strict=True):
        assert old.path == new.path and np.array_equal(old.numpy(), new.numpy())
    np.testing.assert_allclose(
        moved(classifier), moved(as_classifier(model, movable=True)), rtol=1e-5, atol=1e-6
    )
    assert not np.allclose(moved(classifier), model(images()), rtol=1e-2)


def test_exports_of_before_the_published_blocks_are_the_textbooks(tmp_path, saved):
    model = normalised(shortcut="activated", stride_in="first")
    path = exported(model, tmp_path / "m", EARLIER)
    classifier = as_classifier(path, movable=True)
    assert classifier.model is not None
    np.testing.assert_allclose(
        moved(classifier), moved(as_classifier(model, movable=True)), rtol=1e-5, atol=1e-6
    )
    same_weights = saved[0](images())
    assert np.abs(model(images()) - same_weights).max() > 0.01 * np.abs(same_weights).max()


def test_any_other_saved_model_is_moved_through_its_own_variables(tmp_path):
    model = normalised()
    live = as_classifier(model, movable=True)
    foreign = as_classifier(load_classifier(exported(model, tmp_path / "m")), movable=True)
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
    classifier = as_classifier(str(tmp_path / "m"), movable=True)
    assert classifier.parameters.size == 64 * 3
    expected = images().reshape(-1, 64) @ (1.1 * module.kernel.numpy()) + 1
    np.testing.assert_allclose(moved(classifier), expected, rtol=1e-5, atol=1e-6)


def test_saved_ensemble_moves_all_members(tmp_path):
    members = [build("linear", SHAPE, 3, seed=seed) for seed in (0, 1)]
    path = export_classifier(build_ensemble(members), tmp_path / "e", kind="ensemble", sample=images())
    classifier = as_classifier(path, movable=True)
    assert classifier.model is None and classifier.parameters.size == 2 * 65 * 3
    values = np.concatenate([as_classifier(member, movable=True).parameters.value() for member in members])
    assert np.array_equal(classifier.parameters.value(), values)
    for member in members:
        as_classifier(member, movable=True).parameters.assign(
            1.1 * as_classifier(member, movable=True).parameters.value()
        )
    np.testing.assert_allclose(moved(classifier), build_ensemble(members)(images()), rtol=1e-5, atol=1e-6)


def test_live_model_runs_in_inference_mode_under_any_policy(saved):
    model, path = saved
    statistics = [variable.numpy() for variable in model.non_trainable_variables]
    np.testing.assert_array_equal(
        as_classifier(model, movable=True).logits_fn(images()), model(images(), training=False)
    )
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        assert as_classifier(path, movable=True).model.compute_dtype == "float32"
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
        ({"shortcut": "activated"}, r"activated shortcuts.* Received: logits that differ"),
        (LINEAR, "a difference at"),
    ],
)
def test_export_that_is_not_what_its_manifest_says(tmp_path, saved, wrong, message):
    path = shutil.copytree(saved[1], tmp_path / "m")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["config"] |= wrong
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=message):
        as_classifier(path, movable=True)


def test_what_has_no_weights_to_move_is_refused(tmp_path):
    with pytest.raises(UsageError, match="Received: function"):
        as_classifier(lambda x: x, movable=True)
    model = build("linear", SHAPE, 3)
    model.trainable = False
    with pytest.raises(UsageError, match=r"trainable variables\. Received: none in linear"):
        as_classifier(model, movable=True)
    with pytest.raises(UsageError, match="folder of a SavedModel"):
        as_classifier(tmp_path / "nothing", movable=True)
    unbuilt = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    with pytest.raises(UsageError, match="call it once first"):
        as_classifier(unbuilt, movable=True)
    unbuilt(images())
    assert (
        as_classifier(unbuilt, movable=True).input_shape,
        as_classifier(unbuilt, movable=True).num_classes,
    ) == (SHAPE, 3)
    picture = keras.Input(SHAPE)
    softmax = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(picture))
    with pytest.raises(UsageError, match="remove the softmax"):
        as_classifier(keras.Model(picture, softmax), movable=True)
    with pytest.raises(UsageError, match="logits"):
        as_classifier(keras.Model(picture, keras.layers.Conv2D(2, 1)(picture)), movable=True)


def test_an_attacked_export_is_the_saved_model_itself(saved):
    _, path = saved
    classifier = as_classifier(path, images(), np.arange(4))
    assert isinstance(classifier.logits_fn(images()), tf.Tensor) and classifier.model is None
    np.testing.assert_array_equal(classifier.logits_fn(images()), load_classifier(path)(images()))
    assert (classifier.input_shape, classifier.num_classes, classifier.config["model"]) == (
        SHAPE,
        5,
        "wide_resnet",
    )
    with pytest.raises(UsageError, match=r"last must be movable.*movable=True"):
        classifier.parameters.value()


def test_a_list_of_models_is_their_ensemble_and_moves_all_members():
    members = [build("linear", SHAPE, 3, seed=seed) for seed in (0, 1)]
    classifier = as_classifier(members, movable=True)
    np.testing.assert_array_equal(classifier.logits_fn(images()), build_ensemble(members)(images()))
    assert classifier.parameters.size == 2 * 65 * 3


def test_a_function_is_tried_on_the_images_given():
    model = build("linear", SHAPE, 3)
    classifier = as_classifier(lambda x: tf.cast(model(x), tf.float64), images())
    assert (classifier.num_classes, classifier.input_shape) == (3, None)
    assert classifier.logits_fn(images()).dtype == tf.float32
    np.testing.assert_array_equal(classifier.logits_fn(images()), model(images()))
    with pytest.raises(UsageError, match="x must be given for a function"):
        as_classifier(model.call)
    with pytest.raises(UsageError, match=r"labels must be in \[0, 3\).*Received: label 3"):
        as_classifier(model.call, images(), np.array([0, 1, 2, 3]))
    with pytest.raises(UsageError, match="x must hold at least one image"):
        as_classifier(model, images(0))
    with pytest.raises(UsageError, match="must accept images"):
        as_classifier(model, images(shape=(4, 4, 1)))


def test_the_name_of_old_is_a_classifier_with_movable_weights(saved):
    model, _ = saved
    assert as_subject(model).parameters.size == as_classifier(model, movable=True).parameters.size
