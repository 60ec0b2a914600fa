"""The controlled experiments of Li & Spratling: noise, degraded examples, convergence of PGD, sampling."""

import json
import types

import numpy as np
import pytest
from helpers.attack import Linear
from helpers.slice import context_of, make_classifier
from scipy import stats

from advtf.attacks.degraded import scaled
from advtf.attacks.pgd import pgd
from advtf.errors import UsageError
from advtf.storage.cache import ResultCache
from advtf.studies import convergence, degraded, noise, sampling
from advtf.studies.registry import check
from advtf.studies.settings import AnalyzeSettings
from advtf.studies.strength import Strength, kept
from advtf.training.settings import TrainConfig

INPUT = {"hs_examples": 5, "input_eigenvalues": 2, "reference_steps": 12}
TRAINING = TrainConfig.of({"batch_size": 16, "augment": False, "optimizer": "adam", "lr": 0.1}).to_json()


def context_in(folder, study, said=None, **settings):
    say = (lambda line: None) if said is None else said.append
    return context_of(folder, study, [make_classifier(1, "mlp")], say, **(INPUT | settings))


def read(file):
    return json.loads(file.read_text())


@pytest.mark.slow
def test_strength_of_attacks_that_are_known():
    """On a linear model FGSM and PGD10 reach the optimum: effectiveness 1; no perturbation has 0."""
    model = Linear(shape=(3, 3, 1), classes=2)
    x, y = model.batch(7, low=0.3, high=0.7)
    settings = types.SimpleNamespace(
        norm="linf", seed=0, batch_size=3, reference_steps=50, input_eigenvalues=2, hs_examples=None
    )
    context = types.SimpleNamespace(
        classifiers=[types.SimpleNamespace(logits_fn=model)], settings=settings, x=x, y=y, epsilon=0.1,
        jit_compile=False,
    )  # fmt: skip
    strength = Strength(context)
    found = strength()
    assert found["fgsm"]["mean"] == pytest.approx(1, abs=1e-4)
    assert found["pgd10"]["mean"] == pytest.approx(1, abs=1e-4)
    assert found["ig"]["mean"] == pytest.approx(np.abs(model.gradient(x, y)).sum() / 7, rel=1e-4)
    assert strength.effectiveness(strength.variance(scaled(pgd(steps=1), 0.0))) == pytest.approx(0, abs=1e-6)
    half = model.loss(x + 0.05 * np.sign(model.gradient(x, y)), y) - model.loss(x, y)
    whole = model.loss(x + 0.1 * np.sign(model.gradient(x, y)), y) - model.loss(x, y)
    halved = strength.effectiveness(strength.variance(scaled(pgd(steps=10), 0.5)))
    assert halved == pytest.approx(np.mean(half / whole), abs=1e-4)


def test_noise_measures_variants_and_gives_the_weights_back(tmp_path):
    said = []
    context = context_in(tmp_path, "noise", said, variants=5)
    parameters = context.classifiers[0].parameters
    before = parameters.value()
    result, picture = noise.run(context)
    np.testing.assert_array_equal(parameters.value(), before)
    content = read(result)
    records = content["records"]
    assert picture.exists() and list(records) == ["0", "1", "2", "3", "4", "5"]
    plain = Strength(context)()
    assert records["0"]["ig"]["mean"] == pytest.approx(plain["ig"]["mean"])
    scales = [records[str(n)]["scale"] for n in range(1, 6)]
    assert all(0 < scale < 1 for scale in scales) and len(set(scales)) == 5
    pairs = [(each["hs"]["mean"], each["fgsm"]["mean"]) for each in records.values()]
    assert content["correlations"]["fgsm, hs"]["rho"] == pytest.approx(
        stats.spearmanr(*np.array(pairs).T).statistic
    )
    # The variant of a number is the same whatever their count, and a finished one is not measured again.
    (context.folder / "noise.json").unlink()
    assert read(noise.run(context)[0])["records"] == records
    assert sum(line.startswith("s = ") for line in said) == 12


def test_exports_of_earlier_versions_tell_their_training():
    """Their manifests lack the settings that came later; of one with a ramp, only the ramp was another."""
    model = object()
    later = ("shortcut", "stride_in", "order", "train_examples", "deterministic")
    earlier = {name: value for name, value in TRAINING.items() if name not in later}
    for config in (earlier, earlier | {"strength_ramp": True}):
        made = types.SimpleNamespace(name="m", model=model, config=config)
        found = degraded.training_of(made)
        assert (found.batch_size, found.lr, found.order, found.deterministic) == (16, 0.1, "stored", False)
    for config, reason in (
        ({}, "its training."),
        ({"lr": 0.1}, "needs every setting"),
        (TRAINING, "training."),
    ):
        told = types.SimpleNamespace(name="m", model=None if config == TRAINING else model, config=config)
        with pytest.raises(UsageError, match=f"Received: m, which does not tell.*{reason}"):
            degraded.training_of(told)


@pytest.mark.slow
def test_degraded_training_weakens_its_examples_and_gives_the_weights_back(tmp_path):
    context = context_in(tmp_path, "degraded", factors=(0, 1), flips=(0.5,), moments=2)
    classifier = context.classifiers[0]
    with pytest.raises(UsageError, match="does not tell its training"):
        degraded.run(context)
    classifier.config.update(TRAINING)
    before = classifier.parameters.value()
    result, picture = degraded.run(context)
    np.testing.assert_array_equal(classifier.parameters.value(), before)
    records = read(result)["records"]
    assert picture.exists() and list(records) == ["before", "scaled 0", "scaled 1", "flipped 0.5"]
    assert records["scaled 0"]["train"]["mean"] == pytest.approx(0, abs=1e-5)
    # Without any training PGD-20 is nearly the reference; half of its signs reversed is far from it.
    assert records["scaled 1"]["train"]["moments"][0] == pytest.approx(1, abs=0.05)
    assert records["flipped 0.5"]["train"]["moments"][0] < 0.5
    assert records["scaled 1"]["loss"] != records["before"]["loss"]  # it has trained
    assert records["scaled 1"]["loss"] != records["scaled 0"]["loss"]


def test_convergence_is_that_of_the_attack(tmp_path):
    context = context_in(tmp_path, "convergence", convergence_steps=(1, 12))
    result, picture = convergence.run(context)
    records = read(result)["records"]
    assert picture.exists() and list(records) == ["train 1", "train 12", "test 1", "test 12"]
    for split in ("train", "test"):
        one, twelve = records[f"{split} 1"], records[f"{split} 12"]
        assert one["av"]["mean"] < twelve["av"]["mean"] and one["accuracy"] >= twelve["accuracy"]
    strength = Strength(context)
    assert records["train 12"]["av"]["mean"] == pytest.approx(strength.reference().mean(), rel=0.02)


def test_subsets_of_all_images_have_their_mean(tmp_path):
    context = context_in(tmp_path, "sampling", hs_examples=40, sizes=(5, 40, 90), trials=30, batch_size=16)
    result, arrays, picture = sampling.run(context)
    found = read(result)["measures"]
    assert picture.exists() and arrays.name == "sampling.npz"
    ig = Strength(context).meter(context.x, context.y).ig
    assert found["ig"]["images"] == 40 and found["ig"]["mean"] == pytest.approx(ig.mean())
    for each in found.values():
        assert each["sizes"][0] == 5 and 90 not in each["sizes"]
        strays = dict(zip(each["sizes"], each["largest"], strict=True))
        assert strays[5] > 0 and strays.get(each["images"], 0) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("study", "given", "message"),
    [
        ("noise", {"eps": 0}, "study=noise needs perturbations"),
        ("degraded", {"split": "test"}, "study=degraded trains on the images"),
        ("degraded", {"factors": "0,2"}, r"factors must be at most 1\. Received: 2"),
        ("convergence", {"convergence_steps": "0.5,2"}, r"convergence_steps must be whole numbers.*0\.5,2"),
        ("convergence", {"convergence_steps": "none"}, "Received: none"),
        ("sampling", {"sizes": "0.5"}, "sizes must be whole numbers"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(study, given, message):
    settings = AnalyzeSettings.of({"study": study, "eps": 0.1, **given})
    with pytest.raises(UsageError, match=message):
        check(settings, 1)


def test_a_record_is_made_once(tmp_path):
    cache = ResultCache(tmp_path / "state", "identity")
    assert kept(cache, "a", lambda: {"value": np.float64(1.5), "bad": np.nan}) == {"value": 1.5, "bad": None}
    again = ResultCache(tmp_path / "state", "identity")
    assert kept(again, "a", lambda: pytest.fail("made again")) == {"value": 1.5, "bad": None}
