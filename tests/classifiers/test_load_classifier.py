"""Loaded classifiers: derivatives and attacks as on the live model; foreign and damaged folders."""

import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.export import SHAPE, batch, image_to_image, network, two_outputs

from advtf.classifiers.export import export_classifier, load_classifier
from advtf.classifiers.manifest import require_saved_model
from advtf.errors import UsageError


def total_loss(logits_fn, x, y):
    return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits_fn(x)))


def gradients(logits_fn, x, y, v):
    """First derivative of the loss, and the Hessian-vector product with v, both with respect to x."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            loss = total_loss(logits_fn, x, y)
        first = inner.gradient(loss, x)
        inner_product = tf.reduce_sum(first * v)
    return first, outer.gradient(inner_product, x)


def pgd(logits_fn, x, y, steps=3, epsilon=0.1):
    def step(i, current):
        with tf.GradientTape() as tape:
            tape.watch(current)
            loss = total_loss(logits_fn, current, y)
        moved = current + 0.05 * tf.sign(tape.gradient(loss, current))
        return i + 1, tf.clip_by_value(tf.clip_by_value(moved, x - epsilon, x + epsilon), 0.0, 1.0)

    return tf.while_loop(lambda i, _: i < steps, step, (0, x), maximum_iterations=steps)[1]


def test_first_and_second_derivatives_equal_the_live_model(model, exported):
    x, y, v = tf.constant(batch()), np.arange(5) % 4, tf.constant(batch(seed=1))
    live = gradients(lambda x: model(x, training=False), x, y, v)
    for expected, actual in zip(live, gradients(load_classifier(exported), x, y, v), strict=True):
        assert np.abs(expected).max() > 1e-2
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_attack_loop_in_graph_and_xla_equals_the_live_one(model, exported):
    x, y = tf.constant(batch()), np.arange(5) % 4
    saved = load_classifier(exported)
    expected = pgd(lambda x: model(x, training=False), x, y)
    assert total_loss(saved, expected, y) > total_loss(saved, x, y) + 0.1
    for jit in (False, True):
        attack = tf.function(lambda x: pgd(saved, x, y), jit_compile=jit)
        np.testing.assert_allclose(attack(x), expected, atol=1e-6)


def test_saved_classifier_accepts_float64_and_refuses_other_images(exported):
    saved = load_classifier(exported)
    np.testing.assert_array_equal(saved(batch().astype(np.float64)), saved(batch()))
    for wrong in (np.zeros((2, *SHAPE), np.uint8), np.zeros((2, 6, 6, 1), np.float32), batch()[0]):
        with pytest.raises(UsageError, match="images must be float"):
            saved(wrong)


def test_foreign_savedmodel_loads_from_its_signature(model, tmp_path):
    model.export(str(tmp_path / "foreign"), verbose=False)
    saved = load_classifier(tmp_path / "foreign")
    np.testing.assert_allclose(saved(batch()), model(batch(), training=False), atol=1e-6)
    assert (saved.input_shape, saved.num_classes, saved.output) == (SHAPE, 4, "logits")
    assert saved.manifest["kind"] == "foreign"
    with pytest.raises(UsageError, match="must be free or hold an earlier export"):
        export_classifier(model, tmp_path / "foreign", sample=batch(), overwrite=True)


def vector_input():
    vector = keras.Input((5,))
    return keras.Model(vector, keras.layers.Dense(3)(vector))


def byte_input():
    image = keras.Input(SHAPE, dtype="uint8")
    scaled = keras.layers.Rescaling(1 / 255)(image)
    return keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(scaled)))


@pytest.mark.parametrize("build", [two_outputs, image_to_image, vector_input, byte_input])
def test_savedmodels_that_are_no_classifier_are_refused(build, tmp_path):
    build().export(str(tmp_path / "foreign"), verbose=False)
    with pytest.raises(UsageError, match="a classifier maps float32 images"):
        load_classifier(tmp_path / "foreign")


def test_a_missing_path_names_exports_of_several_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"saved_models/{run}/{name}" for run in "ba" for name in ("best", "ensemble", "last", "period1")]
    for name in (*names, "saved_models/b/.last-0.partial"):
        Path(name).mkdir(parents=True)
        Path(name, "saved_model.pb").touch()
    shown = [f"saved_models/{name}" for name in ("a/last", "b/last", "a/best", "a/ensemble", "a/period1")]
    for given in ("saved_models", "saved_models/x", "x", "saved_models/x/last"):
        with pytest.raises(
            UsageError, match=rf"Received: model={given}\. SavedModels there: {', '.join(shown)}, "
        ):
            require_saved_model(given)
    with pytest.raises(UsageError, match=r"SavedModels there: saved_models/b/last, saved_models/b/best, "):
        require_saved_model("saved_models/b")
    Path("saved_models/c/last").mkdir(parents=True)
    Path("saved_models/c/last/saved_model.pb").touch()
    with pytest.raises(UsageError, match=r"saved_models/b/ensemble and others\.$"):
        require_saved_model("saved_models")


def test_a_missing_path_names_its_neighbours(exported):
    with pytest.raises(UsageError, match=r"SavedModels there: \S*best\. Did you mean 'best'"):
        load_classifier(exported.parent / "bets")
    with pytest.raises(UsageError, match=r"SavedModels there: \S*best\."):
        load_classifier(exported.parent)
    with pytest.raises(UsageError, match="must be the folder of a SavedModel"):
        load_classifier("/nonexistent/folder/x")


def truncate(file):
    os.truncate(file, file.stat().st_size // 2)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 0xFF
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("saved_model.pb", truncate),  # the graph has no checksum: a flipped bit in it may go unseen
        ("variables/variables.data-00000-of-00001", truncate),
        ("variables/variables.data-00000-of-00001", flip),
        ("manifest.json", truncate),
        ("manifest.json", flip),
    ],
)
def test_a_damaged_export_is_refused_in_one_line(copy, name, damage):
    damage(copy / name)
    with pytest.raises(UsageError) as caught:
        load_classifier(copy)
    assert str(copy) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format_version=1. Received: 2"),
        ({"num_classes": 5}, "num_classes=4. Received: num_classes=5"),
        ({"kind": "regressor"}, "Received: kind=regressor"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(copy, change, message):
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(UsageError, match=message):
        load_classifier(copy)


def test_a_manifest_of_another_program_leaves_a_foreign_savedmodel(copy):
    (copy / "manifest.json").write_text('{"name": "web app"}')
    assert load_classifier(copy).manifest["kind"] == "foreign"


def softmax_export(folder):
    network(head="softmax").export(str(folder), verbose=False)
    return folder


def test_a_softmax_can_be_loaded_and_gives_its_logarithm(tmp_path):
    saved = load_classifier(softmax_export(tmp_path / "softmax"), outputs="probabilities")
    logits = network()(batch(), training=False)
    np.testing.assert_allclose(saved(batch()), tf.nn.log_softmax(logits), atol=1e-5)
    assert (saved.output, saved.manifest["output"]) == ("log_probabilities", "probabilities")
    assert (saved.ends_in_softmax, saved.manifest["kind"]) == (True, "foreign")
    x, y = tf.constant(batch()), np.arange(5) % 4
    expected = gradients(lambda x: network()(x, training=False), x, y, tf.ones_like(x))[0]
    np.testing.assert_allclose(gradients(saved, x, y, tf.ones_like(x))[0], expected, atol=1e-5)


def test_a_saturated_softmax_has_a_finite_logarithm(tmp_path):
    image = keras.Input(SHAPE)
    scores = 1000.0 * keras.layers.Flatten()(image)[:, :4]
    keras.Model(image, keras.layers.Softmax()(scores)).export(str(tmp_path / "sure"), verbose=False)
    values = load_classifier(tmp_path / "sure", outputs="probabilities")(batch()).numpy()
    assert values.max() == 0 and values.min() == pytest.approx(np.log(1e-12))


def test_outputs_must_be_what_the_savedmodel_returns(model, exported, tmp_path):
    with pytest.raises(UsageError, match=r"must return logits. Received: probabilities; remove the softmax"):
        load_classifier(softmax_export(tmp_path / "softmax"))
    model.export(str(tmp_path / "foreign"), verbose=False)
    for folder in (exported, tmp_path / "foreign"):
        with pytest.raises(UsageError, match=r"must return probabilities. Received: other values"):
            load_classifier(folder, outputs="probabilities")
        assert not load_classifier(folder).ends_in_softmax
    with pytest.raises(UsageError, match="outputs must be one of logits, probabilities"):
        load_classifier(exported, outputs="softmax")
