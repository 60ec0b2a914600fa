"""The study of similarity: files, table and figure; eigenvectors found again; a killed study goes on."""

import dataclasses
import json

import numpy as np
import pytest
from helpers.attack import softmax
from helpers.slice import ATTACK, EPSILON, context_of, make_classifier

from advtf.classifiers.parameters import unit_direction
from advtf.errors import UsageError
from advtf.landscape.objective import AdversarialObjective, adversarial_examples
from advtf.landscape.similarity import PerturbationSimilarity
from advtf.studies import similarity
from advtf.studies.eigenvectors import top_eigenvectors
from advtf.studies.registry import check
from advtf.studies.settings import settings_class

OFFSETS = (0, 1.5)


def eigenpairs(context, classifier):
    """Of softmax regression at its adversarial images: H = mean x̃x̃ᵀ ⊗ (diag(p) − ppᵀ), x̃ = (x, 1)."""
    compute = {"seed": context.settings.seed, "batch_size": 32}
    x_adv = adversarial_examples(classifier, context.x, context.y, context.attack, context.epsilon, **compute)
    features = np.concatenate([x_adv.reshape(len(x_adv), -1), np.ones((len(x_adv), 1))], axis=1)
    shares = softmax(np.asarray(classifier.logits_fn(x_adv), np.float64))
    curvature = np.einsum("nk,kl->nkl", shares, np.eye(10)) - np.einsum("nk,nl->nkl", shares, shares)
    blocks = np.einsum("nd,ne,nkl->dkel", features, features, curvature, optimize=True) / len(x_adv)
    values, vectors = np.linalg.eigh(blocks.reshape(classifier.parameters.size, -1))
    return values[::-1], vectors[:, ::-1]


def two_models(folder, say=lambda line: None):
    classifiers = [make_classifier(seed) for seed in (0, 1)]
    return context_of(folder, "similarity", classifiers, say, offsets=OFFSETS, runs=2, seed=3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder, said = tmp_path_factory.mktemp("analysis"), []
    context = two_models(folder, said.append)
    return context, similarity.run(context), said


def test_numbers_are_those_of_the_library(finished):
    context, files, _ = finished
    assert [file.name for file in files] == ["similarity.json", "similarity.npz", "similarity.png"]
    found = context.read_arrays("similarity")
    assert found["similarity"].shape == (2, 2, 2, 2, 2)  # model, split, run, direction, length
    assert found["error"].shape == found["loss"].shape == (2, 2, 2, 2, 2, 2)
    assert found["splits"].tolist() == ["train", "test"] and found["examples"].tolist() == [40, 30]
    classifier = context.classifiers[1]
    seed = 3 + similarity.RUN_STRIDE
    probe = PerturbationSimilarity(classifier, context.x_test, context.y_test, ATTACK, EPSILON, batch_size=32)
    wanted = probe.along(unit_direction(classifier.parameters, seed), OFFSETS, seed=seed)
    for name in ("similarity", "left_out", "loss", "error"):
        np.testing.assert_array_equal(found[name][1, 1, 1, 1], getattr(wanted, name))
    assert found["between_starts"][1, 1, 1] == probe.between_starts(seed, 3 + 3 * similarity.RUN_STRIDE)
    here = AdversarialObjective(classifier, context.x, context.y, ATTACK, EPSILON, seed=3, batch_size=32)()
    assert (found["loss"][1, 0, 0, :, :, 0] == here.loss).all()
    assert (found["error"][1, 0, 0, :, :, 0] == here.error).all()
    assert (found["similarity"][..., 0] == 1).all()


def test_eigenvectors_are_those_of_the_dense_hessian(finished):
    context, _, _ = finished
    for number, classifier in enumerate(context.classifiers):
        values, vectors = eigenpairs(context, classifier)
        saved = context.read_arrays(f"eigenvectors{number or ''}")
        np.testing.assert_allclose(saved["values"], values[:2], rtol=1e-3)
        assert abs(saved["vectors"][:, 0] @ vectors[:, 0]) > 0.999
    np.testing.assert_allclose(
        context.read_arrays("similarity")["eigenvalues"][1], saved["values"][0], rtol=1e-6
    )


def test_summary_is_means_and_variances_over_runs(finished):
    context, (record, *_), said = finished
    content, found = json.loads(record.read_text()), context.read_arrays("similarity")
    model = content["models"][1]
    assert (content["runs"], content["offsets"]) == (2, [0, 1.5])
    assert content["examples"] == {"train": 40, "test": 30}
    part = model["random"]["test"]
    cosines, errors = found["similarity"][1, 1, :, 1], found["error"][1, 1, :, 1].mean(axis=1)
    np.testing.assert_allclose(part["similarity"], (cosines[0] + cosines[1]) / 2)
    np.testing.assert_allclose(part["similarity_variance"], (cosines[0] - cosines[1]) ** 2 / 2)
    np.testing.assert_allclose(part["robust_error"], errors.mean(axis=0))
    np.testing.assert_allclose(part["loss"], found["loss"][1, 1, :, 1].mean(axis=(0, 1)))
    row = said[next(i for i, line in enumerate(said) if line.startswith("model1")) + 7]
    assert row.split() == ["random,", "test", "cosine", *(f"{value:.4f}" for value in part["similarity"])]
    assert not any("undefined" in line for line in said)


@pytest.mark.slow
def test_killed_study_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    along, calls, classifier = PerturbationSimilarity.along, [], make_classifier()

    def killed(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == 8:  # in the second run, after its first direction
            raise KeyboardInterrupt
        return along(self, *args, **kwargs)

    def one_model(folder):
        settings = {"offsets": OFFSETS, "runs": 2, "split": "test"}
        return context_of(tmp_path / folder, "similarity", [classifier], **settings)

    vector = np.linspace(-0.2, 0.2, classifier.parameters.size)[:, None]
    monkeypatch.setattr(similarity, "top_eigenvectors", lambda *_: (np.ones(1), vector))
    monkeypatch.setattr(PerturbationSimilarity, "along", killed)
    similarity.run(one_model("whole"))
    with pytest.raises(KeyboardInterrupt):
        similarity.run(one_model("killed"))
    state = tmp_path / "killed" / "similarity" / "state"
    assert [file.name for file in state.glob("*.npz")] == ["model0-test-run0.npz"]
    similarity.run(one_model("killed"))
    assert len(calls) == 4 + 4 + 2
    one, two = (one_model(folder).read_arrays("similarity") for folder in ("whole", "killed"))
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)
    other = one_model("killed")
    other.x_test[0] = 0.5
    with pytest.raises(UsageError, match="another classifier, or of other images"):
        similarity.run(other)


def test_saved_eigenvectors_are_used_only_where_they_are_eigenvectors(tmp_path):
    classifier, said = make_classifier(), []
    context = context_of(tmp_path, "similarity", [classifier], said.append)
    values, vectors = eigenpairs(context, classifier)
    place, own = tmp_path / "hessian", tmp_path / "similarity" / "eigenvectors.npz"
    place.mkdir()

    def save(end, **changes):
        arrays = {"values": values[:3], "vectors": vectors[:, :3].astype(np.float32)} | changes
        np.savez(place / "hessian.npz", **arrays)
        (place / "hessian.json").write_text(json.dumps({"settings": {"eigen_end": end}}))

    def found(**settings):
        """The eigenvalues, and whether they were found anew."""
        own.unlink(missing_ok=True)
        changed = dataclasses.replace(context, settings=dataclasses.replace(context.settings, **settings))
        values, _ = top_eigenvectors(changed, 0, 1)
        return values.tolist(), own.exists()

    save("both")
    assert found() == ([values[0]], False)
    assert said == [f"Eigenvectors of {place / 'hessian.npz'} are used: they are eigenvectors here, too."]
    assert found(eps=0.3)[1]  # other adversarial images
    save("smallest")
    assert found()[1]
    save("largest", values=values[1:4])
    assert found()[1]
    save("largest", vectors=vectors[:-1, :3])
    assert found()[1]
    save("largest")
    classifier.parameters.assign(1.5 * classifier.parameters.value())
    assert found()[1] and len(said) == 1


def test_only_test_images_and_undefined_cosines(tmp_path, monkeypatch):
    """Weights of zero have no gradient: at a = 0 nothing is perturbed, and the table says so."""
    classifier, said = make_classifier(), []
    classifier.parameters.assign(np.zeros(classifier.parameters.size))
    settings = {"offsets": (0, 2), "runs": 1, "split": "test", "attack_steps": 2, "random_start": "none"}
    context = context_of(tmp_path, "similarity", [classifier], said.append, **settings)
    vector = np.ones((classifier.parameters.size, 1), np.float32)
    monkeypatch.setattr(similarity, "top_eigenvectors", lambda *_: (np.ones(1), vector))
    record = json.loads(similarity.run(context)[0].read_text())
    part = record["models"][0]["random"]
    assert list(part) == ["test"] and part["test"]["left_out"] == [30, 0]
    assert part["test"]["similarity"][0] is None and part["test"]["similarity"][1] < 0
    assert part["test"]["similarity_variance"] is None
    assert said[-1].startswith("60 cosines (50 %) are undefined")


@pytest.mark.parametrize("eps", [0, 1e-9])
def test_without_perturbations_it_is_refused(eps):
    with pytest.raises(UsageError, match=rf"study=similarity .* Received: eps={eps:g}. Give a larger --eps"):
        check(settings_class().of({"study": "similarity", "eps": eps, "attack_steps": 1}), models=1)
