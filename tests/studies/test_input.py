"""The study of the input landscape: its numbers, files, table, figure; a killed study goes on."""

import json

import numpy as np
import pytest
from helpers.figures import drawn_panels
from helpers.slice import ATTACK, EPSILON, context_of, make_classifier

from advtf import studies
from advtf.attacks.pgd import fgsm, pgd
from advtf.errors import UsageError
from advtf.figures import input as figures
from advtf.landscape.inputs import InputMeter, input_measures
from advtf.landscape.statistics import estimate
from advtf.landscape.twin import softplus_twin
from advtf.studies import input as study
from advtf.studies.settings import AnalyzeSettings

SETTINGS = {"hs_examples": 6, "input_eigenvalues": 3, "reference_steps": 5, "seed": 2}
MEASURES = ("loss", "ig", "av", "av_reference", "ga", "hs", "eigenvalues", "residuals")


def context_in(folder, classifiers, say=lambda line: None, **settings):
    return context_of(folder, "input", classifiers, say, **(SETTINGS | settings))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    said, classifiers = [], [make_classifier(0), make_classifier(1, "mlp")]
    context = context_in(tmp_path_factory.mktemp("analysis"), classifiers, said.append)
    return context, study.run(context), said


def expected(context, number, split, attack=ATTACK):
    x, y = {"train": (context.x, context.y), "test": (context.x_test, context.y_test)}[split]
    settings = {"reference": pgd(steps=5), "eigenvalues": 3, "hs_examples": 6, "seed": 2}
    return input_measures(context.classifiers[number].logits_fn, x, y, EPSILON, attack=attack, **settings)


def test_numbers_are_those_of_the_library(finished):
    context, files, _ = finished
    assert [file.name for file in files] == ["input.json", "input.npz", "input.png"]
    assert all(file.stat().st_size for file in files)
    found = context.read_arrays("input")
    assert found["models"].tolist() == ["model0", "model1"] and found["splits"].tolist() == ["train", "test"]
    for number, split in ((0, "train"), (1, "test")):
        wanted = expected(context, number, split)
        for name in MEASURES:
            values = found[f"{split}_{name}"][number]
            np.testing.assert_allclose(values, getattr(wanted, name), rtol=1e-3, atol=1e-5)
        ratios = found[f"{split}_effectiveness"][number]
        assert (np.isnan(ratios) == ~wanted.assessable).all()
        np.testing.assert_allclose(ratios[wanted.assessable], wanted.effectiveness, rtol=1e-3, atol=1e-4)
    assert found["train_hs"].shape == (2, 6) and found["test_ig"].shape == (2, 30)


def test_record_and_table(finished):
    context, (record, *_), said = finished
    content, found = json.loads(record.read_text()), context.read_arrays("input")
    assert content["epsilon"] == EPSILON
    assert content["settings"]["reference_steps"] == 5 and content["settings"]["assessed_attack"] == "pgd"
    summary = content["models"][1]["splits"]["test"]
    for name in ("ig", "av", "ga", "loss"):
        assert summary[name] == pytest.approx(estimate(found[f"test_{name}"][1]).to_json())
    hs = found["test_hs"][1]
    assert summary["hs"]["mean"] == pytest.approx(hs.mean()) and summary["hs"]["converged"] == 6
    assert said[0] == "Input loss landscape, ε 0.1, pgd relative to PGD5, mean ± standard error"
    row = next(line for line in said if line.endswith("test   model1"))
    assert str(estimate(hs)) in row
    assert len([line for line in said if "classifier" in line or "model" in line]) == 5


def test_other_attacks_one_split_and_no_spectrum(tmp_path):
    said = []
    settings = {"assessed_attack": "fgsm", "split": "test", "hs_examples": 0}
    context = context_in(tmp_path, [make_classifier()], said.append, **settings)
    record, arrays, _ = study.run(context)
    found = context.read_arrays("input")
    x, y = context.x_test, context.y_test
    wanted = input_measures(context.classifiers[0].logits_fn, x, y, EPSILON, attack=fgsm(), hs_examples=0)
    np.testing.assert_allclose(found["test_av"][0], wanted.av, atol=1e-5)
    assert found["splits"].tolist() == ["test"] and "train_av" not in found
    assert json.loads(record.read_text())["models"][0]["splits"]["test"]["hs"]["mean"] is None
    assert arrays.exists() and said[2].split()[3] == "-"


@pytest.mark.slow
def test_softplus_twins_are_measured_too(tmp_path):
    classifier = make_classifier(0, "mlp")
    context = context_in(
        tmp_path, [classifier], softplus_twin=True, split="test", hs_examples=0, assessed_attack="fgsm"
    )
    study.run(context)
    found = context.read_arrays("input")
    assert found["models"].tolist() == ["model0", "model0 (softplus)"]
    twin = softplus_twin(classifier.model)
    wanted = input_measures(
        twin, context.x_test, context.y_test, EPSILON, attack=ATTACK, seed=2, hs_examples=0
    )
    np.testing.assert_allclose(found["test_ig"][1], wanted.ig, rtol=1e-4)
    assert not np.allclose(found["test_ig"][0], found["test_ig"][1], rtol=0.01)
    with pytest.raises(UsageError, match=r"model with ReLUs\. Received: model0"):
        study.run(context_in(tmp_path / "other", [make_classifier()], softplus_twin=True))


@pytest.mark.slow
def test_killed_study_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    measure, calls, classifier = InputMeter.__call__, [], make_classifier()

    def killed(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return measure(self, *args, **kwargs)

    monkeypatch.setattr(InputMeter, "__call__", killed)
    settings = {"assessed_attack": "fgsm", "hs_examples": 2}
    study.run(context_in(tmp_path / "whole", [classifier], **settings))
    with pytest.raises(KeyboardInterrupt):
        study.run(context_in(tmp_path / "killed", [classifier], **settings))
    study.run(context_in(tmp_path / "killed", [classifier], **settings))
    assert len(calls) == 2 + 2 + 1
    one, two = (
        context_in(tmp_path / name, [classifier]).read_arrays("input") for name in ("whole", "killed")
    )
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)
    with pytest.raises(UsageError, match="another classifier, or of other images"):
        study.run(context_in(tmp_path / "killed", [classifier], reference_steps=6))


def test_what_cannot_be_is_refused_before_any_compute():
    entry = studies.STUDIES["input"]
    given = {"study": ("input",), "eps": 0.1, "attack_steps": 10}
    entry.check(AnalyzeSettings(**given, reference_steps=10), 1)
    entry.check(AnalyzeSettings(**given, reference_steps=1, assessed_attack="fgsm"), 1)
    with pytest.raises(UsageError, match="reference_steps must be at least attack_steps, 10"):
        entry.check(AnalyzeSettings(**given, reference_steps=9), 1)
    with pytest.raises(UsageError, match="needs perturbations"):
        entry.check(AnalyzeSettings(**given | {"eps": 0.0}), 1)
    with pytest.raises(UsageError, match="assessed_attack must be one of pgd, fgsm, fgsm_r, fgsm_n"):
        AnalyzeSettings(**given, assessed_attack="cw")


def test_figure_shows_means_with_their_errors(finished, tmp_path, monkeypatch):
    context, (_, results, _), _ = finished
    panels = drawn_panels(monkeypatch, figures)
    output = figures.input_landscape({"run": results}, tmp_path / "f.png")
    assert output.stat().st_size
    (axes,) = panels
    found = context.read_arrays("input")
    assert [panel.get_xlabel().replace(", log scale", "") for panel in axes] == list(figures.PANELS.values())
    for panel, name in zip(axes, figures.PANELS, strict=True):
        means = [bar.lines[0].get_xdata()[0] for bar in panel.containers]
        wanted = [
            np.nanmean(found[f"{split}_{name}"][model]) for model in (0, 1) for split in ("train", "test")
        ]
        np.testing.assert_allclose(means, wanted)
    ticks = [label.get_text() for label in axes[-1].get_yticklabels()]
    assert ticks == ["run: model0", "run: model1"]
    without = {name: np.zeros((2, 0)) if "hs" in name else values for name, values in found.items()}
    np.savez(tmp_path / "without.npz", **without)
    figures.input_landscape({"": tmp_path / "without.npz"}, tmp_path / "g.pdf")
    assert len(panels[1]) == 4


def test_figure_refuses_other_files(tmp_path):
    with pytest.raises(UsageError, match="at least one"):
        figures.input_landscape({}, tmp_path / "f.png")
    np.savez(tmp_path / "other.npz", models=np.array(["a"]))
    with pytest.raises(UsageError, match=r"an input\.npz of the study input is required"):
        figures.input_landscape({"": tmp_path / "other.npz"}, tmp_path / "f.png")
