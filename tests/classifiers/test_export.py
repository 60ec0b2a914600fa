"""Exporting: round trips, interruption, overwriting, and what is refused before anything is written."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.export import SHAPE, batch, image_to_image, names, network, two_outputs

from advtf.classifiers import export
from advtf.classifiers.ensemble import build_ensemble
from advtf.classifiers.export import copy_export, export_classifier, load_classifier
from advtf.errors import UsageError


def test_reloaded_logits_equal_the_live_ones_at_any_batch_size(model, exported):
    saved = load_classifier(exported)
    for size in (1, 2, 5, 17):
        x = batch(size, seed=size)
        np.testing.assert_allclose(saved(x), model(x, training=False), atol=1e-6)
    assert (saved.input_shape, saved.num_classes, saved.output) == (SHAPE, 4, "logits")


def test_manifest_says_what_the_folder_holds(exported):
    manifest = json.loads((exported / "manifest.json").read_text())
    assert manifest == load_classifier(exported).manifest
    assert manifest["format"] == "advtf-classifier" and manifest["format_version"] == 1
    assert manifest["input"] == {"shape": [6, 6, 2], "range": [0, 1], "dtype": "float32"}
    assert (manifest["name"], manifest["kind"], manifest["output"]) == ("best", "classifier", "logits")
    assert manifest["num_classes"] == 4 and manifest["epoch"] == 7
    assert manifest["accuracies"] == {"clean": 0.5, "robust": None}
    assert manifest["versions"]["tensorflow"] == tf.__version__
    assert set(manifest["versions"]) == {
        "advtf",
        "python",
        "tensorflow",
        "keras",
        "numpy",
        "tensorflow-datasets",
    }


def test_a_copied_export_computes_the_same_and_tells_its_own_name_and_metadata(exported, tmp_path):
    path = copy_export(exported, tmp_path / "period1", {"epoch": 8})
    saved, source = load_classifier(path), load_classifier(exported)
    np.testing.assert_array_equal(saved(batch(5)), source(batch(5)))
    own = {"name": "period1", "epoch": 8}
    assert (
        saved.manifest == {key: source.manifest[key] for key in source.manifest if key != "accuracies"} | own
    )
    with pytest.raises(UsageError, match="must be free"):
        copy_export(exported, path, {})
    assert load_classifier(copy_export(exported, path, {"epoch": 9}, overwrite=True)).manifest["epoch"] == 9


def test_a_copy_that_differs_from_its_source_gets_no_name(exported, tmp_path, monkeypatch):
    def torn(source, folder, **settings):
        shutil.copytree(source, folder, **settings)
        data = next(Path(folder).glob("variables/*.data*"))
        data.write_bytes(data.read_bytes()[:-1])

    monkeypatch.setattr(export, "shutil", SimpleNamespace(copytree=torn))
    with pytest.raises(RuntimeError, match="period1: the copy differs"):
        copy_export(exported, tmp_path / "period1", {})
    assert names(tmp_path) == []


def test_ensemble_round_trip(tmp_path):
    ensemble = build_ensemble([network(1), network(2)])
    saved = load_classifier(export_classifier(ensemble, tmp_path / "e", kind="ensemble", sample=batch(2)))
    np.testing.assert_allclose(saved(batch()), ensemble(batch()), atol=1e-6)
    np.testing.assert_allclose(np.exp(saved(batch())).sum(1), 1, atol=1e-5)
    assert (saved.output, saved.manifest["kind"]) == ("log_probabilities", "ensemble")


def test_a_subclassed_model_and_a_collapsed_one_export(tmp_path):
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def call(self, x):
            return self.inner(x)

    member = Subclassed()
    saved = load_classifier(export_classifier(member, tmp_path / "subclassed", sample=batch(2)))
    np.testing.assert_allclose(saved(batch()), member.inner(batch()), atol=1e-6)
    member.inner.layers[1].kernel.assign(np.zeros((3, 3, 2, 3)))  # as training at too large an ε ends
    export_classifier(member, tmp_path / "collapsed", sample=batch(2))


def test_a_softmax_is_refused_on_the_way_out_and_on_the_way_in(tmp_path):
    softmax = network(head="softmax")
    with pytest.raises(UsageError, match="remove the softmax"):
        export_classifier(softmax, tmp_path / "out", sample=batch())
    softmax.export(str(tmp_path / "foreign"), verbose=False)
    with pytest.raises(UsageError, match="remove the softmax"):
        load_classifier(tmp_path / "foreign")


@pytest.mark.parametrize("failing", ["write_manifest", "_compare"])
def test_an_interrupted_export_leaves_nothing(model, tmp_path, monkeypatch, failing):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(export if failing == "_compare" else export.manifests, failing, interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_classifier(model, tmp_path / "best", sample=batch())
    assert names(tmp_path) == []


def test_a_reloaded_model_that_differs_is_not_kept(model, copy, monkeypatch):
    other = export_classifier(network(5), copy.parent / "other", sample=batch())
    before = (copy / "manifest.json").read_bytes()
    monkeypatch.setattr(export, "load_classifier", lambda _: load_classifier(other))
    with pytest.raises(RuntimeError, match="the reloaded output differs"):
        export_classifier(model, copy, sample=batch(), overwrite=True)
    assert names(copy.parent) == ["copy", "other"] and (copy / "manifest.json").read_bytes() == before


def test_a_gradient_lost_on_the_way_is_noticed(model, exported, tmp_path, monkeypatch):
    saved = load_classifier(exported)
    blocked = export.SavedClassifier(**(vars(saved) | {"_signature": _without_gradient(saved._signature)}))
    monkeypatch.setattr(export, "load_classifier", lambda _: blocked)
    with pytest.raises(RuntimeError, match="input gradient differs"):
        export_classifier(model, tmp_path / "best", sample=batch())


def _without_gradient(signature):
    def call(**inputs):
        return {key: tf.stop_gradient(value) for key, value in signature(**inputs).items()}

    call.structured_input_signature = signature.structured_input_signature
    return call


def test_overwrite_replaces_an_export_only_when_asked(copy):
    with pytest.raises(UsageError, match="pass overwrite=True"):
        export_classifier(network(3), copy, sample=batch())
    export_classifier(network(3), copy, sample=batch(), overwrite=True)
    np.testing.assert_allclose(load_classifier(copy)(batch()), network(3)(batch()), atol=1e-6)
    assert names(copy.parent) == ["copy"]


def test_a_failed_swap_restores_the_earlier_export(copy, monkeypatch):
    before = np.asarray(load_classifier(copy)(batch()))
    rename = Path.rename

    def refuse(self, target):
        if self.name.endswith(".partial"):
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="disk full"):
        export_classifier(network(3), copy, sample=batch(), overwrite=True)
    assert names(copy.parent) == ["copy"]
    np.testing.assert_array_equal(load_classifier(copy)(batch()), before)


def test_a_folder_of_other_files_is_never_replaced(model, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for target in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(UsageError, match="must be free or hold an earlier export"):
            export_classifier(model, target, sample=batch(), overwrite=True)
    with pytest.raises(UsageError, match="path must be a folder that can be made and written"):
        export_classifier(model, tmp_path / "thesis.tex" / "best", sample=batch())
    assert names(tmp_path) == ["thesis.tex"]


def test_what_a_killed_export_left_is_cleared_and_an_empty_folder_is_free(model, tmp_path):
    (tmp_path / "best").mkdir()
    (tmp_path / ".best.partial").mkdir()
    (tmp_path / ".best.partial" / "junk").write_text("half")
    path = export_classifier(model, tmp_path / "best", sample=batch())
    assert names(tmp_path) == ["best"] and "junk" not in names(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "ensembel"}, "Did you mean 'ensemble'"),
        ({"kind": "ensemble"}, "needs log-probabilities"),
        ({"sample": batch() * 255}, "divide 8-bit images by 255"),
        ({"sample": np.zeros((2, *SHAPE), np.uint8)}, "divide 8-bit images by 255"),
        ({"sample": batch() * np.nan}, "must hold float images"),
        ({"sample": batch()[:0]}, "must hold float images"),
        ({"sample": batch()[0]}, "must hold float images"),
        ({"sample": np.zeros((2, 6, 6, 3), np.float32)}, "model must accept sample"),
        ({"metadata": {"kind": "mine"}}, "own keys. Received: kind"),
        ({"metadata": {"a": {"b": object()}}}, "Received: a.b of object"),
        ({"model": lambda x: x}, "must be a Keras model"),
        ({"model": network(classes=4, head=lambda z: z * np.inf)}, "finite logits"),
        ({"model": two_outputs()}, "must return float32 logits"),
        ({"model": image_to_image()}, "must return float32 logits"),
    ],
)
def test_unusable_arguments_are_refused_before_anything_is_written(model, tmp_path, change, message):
    settings = {"model": model, "path": tmp_path / "best", "sample": batch()} | change
    with pytest.raises(UsageError, match=message) as caught:
        export_classifier(**settings)
    assert "\n" not in str(caught.value) and names(tmp_path) == []


def test_a_half_precision_model_is_refused(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = network()
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.raises(UsageError, match="float32 policy"):
        export_classifier(half, tmp_path / "half", sample=batch())


def test_a_strategy_scope_is_refused(model, exported, tmp_path):
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        for act in (
            lambda: load_classifier(exported),
            lambda: export_classifier(model, tmp_path / "a", sample=batch()),
        ):
            with pytest.raises(UsageError, match="outside strategy"):
                act()
    assert names(tmp_path) == []


def test_export_and_load_are_silent(model, tmp_path, capfd, caplog, recwarn):
    load_classifier(export_classifier(model, tmp_path / "quiet", sample=batch()))
    assert capfd.readouterr() == ("", "") and not caplog.records and not list(recwarn)
