"""Running studies one after another, and what is kept when one of them fails or is killed."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.analysis import IMAGES, LABELS, fake_classifier, read, register
from helpers.run import tree

from advtf.errors import UsageError
from advtf.studies import run as analysis_run
from advtf.studies import runner
from advtf.studies.run import AnalysisDirectory, Material
from advtf.studies.settings import AnalyzeSettings


@pytest.fixture
def two(monkeypatch):
    return register(monkeypatch, "first"), register(monkeypatch, "second")


def completed(**given):
    return analysis_run.completed(AnalyzeSettings(study=("first", "second"), **given), {})


def go(folder, said=None, **given):
    settings = completed(**given)
    material = Material([fake_classifier()], IMAGES, LABELS, source={"classifiers": ["a"]})
    say = (lambda line: None) if said is None else said.append
    return runner.run_studies(settings.study, settings, material, folder, say)


def test_studies_get_what_they_need_and_their_results_are_listed(two, tmp_path):
    said = []
    outcome = go(tmp_path, said, eps="0.1", attack_step_size="0.02", seed=4)
    first = two[0].contexts[0]
    assert first.folder == tmp_path / "first" and first.x is IMAGES and first.y is LABELS
    assert (first.epsilon, first.settings.seed, first.classifiers[0].name) == (0.1, 4, "a")
    assert outcome.failures == {}
    for name in ("first", "second"):
        files = [tmp_path / name / f"{name}.json", tmp_path / name / f"{name}.npz"]
        assert outcome.files[name] == files and runner.finished_files(tmp_path / name) == files
        assert read(files[0])["mean"] == pytest.approx(IMAGES.mean())
        assert not (tmp_path / name / "state").exists()
    assert [line.split()[0] for line in said] == ["first", "mean", "first", "second", "mean", "second"]


def test_the_attack_is_the_one_configured(two, tmp_path):
    go(tmp_path, eps="0.1", norm="linf", attack_steps=1, attack_step_size="0.02", random_start="none")
    context = two[0].contexts[0]
    x = np.full((2, 2, 2, 1), 0.5, np.float32)
    signs = tf.constant([1.0, -1.0, 1.0, -1.0])[:, None] * [[1.0, -1.0]]
    found = context.attack(
        lambda x: tf.reshape(x, [-1, 4]) @ signs, x, np.array([0, 1]), context.epsilon, tf.constant([0, 0])
    )
    expected = 0.02 * np.array([[-1, 1, -1, 1], [1, -1, 1, -1]]).reshape(2, 2, 2, 1)
    np.testing.assert_allclose(found - x, expected, atol=1e-7)


def test_a_killed_study_continues_from_its_state_and_finished_ones_are_kept(two, tmp_path):
    two[1].fail = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path)
    before = tree(tmp_path / "first")
    said = []
    outcome = go(tmp_path, said)
    assert (len(two[0].contexts), two[1].found) == (1, [None, "call 1"])
    assert "first: done before" in said[0] and tree(tmp_path / "first") == before
    assert list(outcome.files) == ["first", "second"] and not (tmp_path / "second" / "state").exists()
    go(tmp_path)
    assert len(two[1].contexts) == 2


def test_a_study_whose_files_are_gone_is_repeated(two, tmp_path):
    go(tmp_path)
    (tmp_path / "second" / "second.npz").unlink()
    go(tmp_path)
    assert (len(two[0].contexts), len(two[1].contexts)) == (1, 2)


def test_one_that_fails_does_not_lose_the_others(two, tmp_path):
    two[0].fail, said = UsageError("no. Received: x."), []
    outcome = go(tmp_path, said)
    assert list(outcome.files) == ["second"] and str(outcome.failures["first"]) == "no. Received: x."
    assert "not done: no. Received: x." in said and runner.finished_files(tmp_path / "first") is None
    assert list(go(tmp_path).files) == ["first", "second"]


def test_finishing_lists_the_files_of_all_studies(two, tmp_path):
    run = AnalysisDirectory(tmp_path)
    two[1].fail = UsageError("no")
    go(tmp_path)
    material = Material([], source={"classifiers": ["a"]})
    assert not runner.finish(run, completed(), material) and not run.results.exists()
    go(tmp_path)
    assert runner.finish(run, completed(), material)
    record = read(tmp_path / "analysis.json")
    assert record["classifiers"] == ["a"] and "advtf" in record["versions"]
    assert record["studies"]["second"] == ["second/second.json", "second/second.npz"]
