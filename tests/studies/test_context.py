"""What a study writes through its context."""

import json

import numpy as np
import pytest
from helpers.analysis import read

from advtf.errors import UsageError
from advtf.studies.context import StudyContext
from advtf.studies.settings import AnalyzeSettings

SETTINGS = AnalyzeSettings(
    study="hessian,density", norm="l2", eps="0.5", attack_step_size="eps/4", eigenvalues=7, runs=3
)


def context(folder, study="hessian"):
    (folder / study).mkdir()
    nothing = dict.fromkeys(("x", "y", "x_test", "y_test", "attack"))
    return StudyContext(
        settings=SETTINGS,
        classifiers=[],
        **nothing,
        num_classes=0,
        epsilon=0.5,
        folder=folder / study,
        jit_compile=False,
        say=print,
        source={"classifiers": ["a/last"], "dataset": "digits"},
    )


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
    assert found.keys() == arrays.keys()
    for name, values in arrays.items():
        assert found[name].dtype == values.dtype and found[name].tobytes() == values.tobytes()


def test_the_relative_step_follows_the_radius():
    assert SETTINGS.relative_step == 0.25
    assert AnalyzeSettings(eps="8/255", attack_step_size="2/255").relative_step == pytest.approx(0.25)
    assert AnalyzeSettings(eps=0, attack_step_size="2/255").relative_step == 1


def test_settings_survive_their_json():
    assert AnalyzeSettings.from_json(json.loads(json.dumps(SETTINGS.to_json()))) == SETTINGS
