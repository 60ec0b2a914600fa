"""What a study is given through its context, and what it writes through it."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers.analysis import FGSM, IMAGES, LABELS, fake_classifier, read, study_context

from advtf.errors import UsageError
from advtf.studies.context import StudyContext
from advtf.studies.settings import AnalyzeSettings

SETTINGS = AnalyzeSettings(
    study="hessian,density", norm="l2", eps="0.5", attack_step_size="eps/4", eigenvalues=7, runs=3
)


def context(folder, study="hessian"):
    source = {"classifiers": ["a/last"], "dataset": "digits"}
    nothing = dict.fromkeys(("x", "y", "x_test", "y_test"))
    return StudyContext(SETTINGS, [], **nothing, folder=folder, source=source).of_study(study)


def given(classifiers, x=IMAGES, y=LABELS, x_test=None, y_test=None):
    return StudyContext(SETTINGS, classifiers, x, y, x_test, y_test, Path())


@pytest.mark.parametrize(
    ("classifiers", "message"),
    [
        (
            [fake_classifier(), fake_classifier("b", classes=5)],
            "a with 8×8×1, 10 classes and b with 8×8×1, 5 classes",
        ),
        ([fake_classifier(), fake_classifier("b", shape=(8, 8, 3))], "one input shape and number of classes"),
        ([fake_classifier(shape=(28, 28, 1))], "the 28×28×1 pixels and channels of a. Received: 8×8×1"),
        ([fake_classifier(shape=(None, None, 3))], r"the \?×\?×3 pixels"),
    ],
)
def test_classifiers_and_images_must_fit(classifiers, message):
    with pytest.raises(UsageError, match=message):
        given(classifiers)


def test_free_sizes_fit_all_images():
    assert given([fake_classifier(shape=(None, None, 1))]).identity()


def test_the_identity_is_of_weights_images_and_labels():
    identities = {
        given([fake_classifier()]).identity(),
        given([fake_classifier(weights=(1.0, 2.5))]).identity(),
        given([fake_classifier()], IMAGES[::-1]).identity(),
        given([fake_classifier()], y=LABELS[::-1]).identity(),
        given([fake_classifier()], x_test=IMAGES, y_test=LABELS).identity(),
    }
    assert len(identities) == 5
    assert given([fake_classifier("other name")]).identity() in identities


def test_the_attack_is_the_one_configured(tmp_path):
    made = study_context(tmp_path, "hessian", eps="0.1", **FGSM | {"attack_step_size": "0.02"})
    x = np.full((2, 2, 2, 1), 0.5, np.float32)
    signs = tf.constant([1.0, -1.0, 1.0, -1.0])[:, None] * [[1.0, -1.0]]
    found = made.attack(
        lambda x: tf.reshape(x, [-1, 4]) @ signs, x, np.array([0, 1]), made.epsilon, tf.constant([0, 0])
    )
    expected = 0.02 * np.array([[-1, 1, -1, 1], [1, -1, 1, -1]]).reshape(2, 2, 2, 1)
    np.testing.assert_allclose(found - x, expected, atol=1e-7)


def test_a_cache_is_refused_with_other_settings_or_arrays(tmp_path):
    first = study_context(tmp_path, "density", eps=0.1, density_probes=3, runs=2)
    first.cache(np.arange(3)).put("a", {"v": np.ones(2)})
    same = study_context(tmp_path, "density", eps=0.1, density_probes=3, runs=5)  # runs are of similarity
    assert same.cache(np.arange(3)).get("a")["v"].tolist() == [1, 1]
    others = ({"eps": 0.2, "density_probes": 3}, {"eps": 0.1, "density_probes": 4})
    for other, array in ((others[0], np.arange(3)), (others[1], np.arange(3)), (None, np.arange(4))):
        made = study_context(tmp_path, "density", **other) if other else first
        with pytest.raises(UsageError, match="must hold results of this"):
            made.cache(array)


def test_a_result_tells_where_it_comes_from(tmp_path):
    path = context(tmp_path).write_json("hessian", {"eigenvalues": np.array([2.5, 1.0], np.float32)})
    record = read(path)
    assert path == tmp_path / "hessian" / "hessian.json"
    assert {"python", "advtf", "tensorflow", "keras"} <= record["versions"].keys() and "command" in record
    assert (record["study"], record["classifiers"], record["dataset"]) == ("hessian", ["a/last"], "digits")
    assert record["eigenvalues"] == [2.5, 1.0]
    settings = record["settings"]
    assert (settings["norm"], settings["eps"], settings["eigenvalues"], settings["seed"]) == ("l2", 0.5, 7, 0)
    assert not {"runs", "density_probes", "model"} & settings.keys()  # of other studies, or told elsewhere


def test_settings_of_other_studies_that_one_reads_are_recorded_too(tmp_path):
    settings = read(context(tmp_path, "similarity").write_json("similarity", {}))["settings"]
    assert (settings["runs"], settings["max_products"]) == (3, 400)


def test_what_json_cannot_hold(tmp_path):
    here = context(tmp_path)
    values = {"a": np.float64("nan"), "b": [np.inf, np.int64(3)], "c": (True, None)}
    record = read(here.write_json("more", values))
    assert (record["a"], record["b"], record["c"]) == (None, [None, 3], [True, None])
    before = (here.folder / "more.json").read_bytes()
    with pytest.raises(UsageError, match=r"Received: more\.a of set"):
        here.write_json("more", {"a": {1, 2}})
    assert (here.folder / "more.json").read_bytes() == before
    assert [p.name for p in here.folder.iterdir()] == ["more.json"]


def test_arrays_come_back_with_their_bits(tmp_path):
    here = context(tmp_path)
    arrays = {"vectors": np.random.default_rng(0).normal(size=(5, 2)), "labels": np.arange(3, dtype=np.int32)}
    path = here.write_arrays("hessian", **arrays)
    assert path == here.folder / "hessian.npz"
    found = here.read_arrays("hessian")
    assert found.keys() == {*arrays, "about"}  # what they were measured on, for the figures
    for name, values in arrays.items():
        assert found[name].dtype == values.dtype and found[name].tobytes() == values.tobytes()


def test_the_relative_step_follows_the_radius():
    assert SETTINGS.relative_step == 0.25
    assert AnalyzeSettings(eps="8/255", attack_step_size="2/255").relative_step == pytest.approx(0.25)
    assert AnalyzeSettings(eps=0, attack_step_size="2/255").relative_step == 1


def test_settings_survive_their_json():
    assert AnalyzeSettings.from_json(json.loads(json.dumps(SETTINGS.to_json()))) == SETTINGS
