"""The report of an evaluation whose numbers are chosen by hand: table, JSON, examples of the figure."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from advtf.evaluation.report import (
    AttackResult,
    ComponentRecord,
    Evaluation,
    EvaluationDirectory,
    Spent,
    write,
)
from advtf.evaluation.settings import AttackSettings


def mask(*rows, count=20):
    return np.isin(np.arange(count), rows)


def evaluation():
    """Of 20 images 0 is wrong without attack; PGD breaks 1 to 15, and the screen all but 19."""
    loss = np.linspace(0, 2, 20, dtype=np.float32)
    pgd, screen = range(1, 16), range(1, 19)
    parts = (
        ComponentRecord("apgd_ce", 19, 17, Spent(190, 95, 1.5)),
        ComponentRecord("apgd_t", 2, 1, Spent(20, 10, 0.25, 0.125)),
    )
    results = {
        "pgd": AttackResult(mask(0, *pgd), mask(*pgd), loss, parts[:1]),
        "screen": AttackResult(mask(0, *screen), mask(*screen), np.where(mask(3), np.inf, loss), parts),
    }
    x = np.full((20, 2, 2, 1), 0.5, np.float32)
    return x, Evaluation(
        model="run/last",
        settings=AttackSettings(attacks="pgd,screen", eps=8 / 255, batch_size=3),
        images={"examples": 20, "sha256": "5" * 64},
        clean=AttackResult(mask(0), mask(), loss),
        attacks=results,
        worst_case=results["screen"],
        # Every image is moved by its number in thousandths, in each of its four pixels.
        adversarial=x + np.arange(20, dtype=np.float32)[:, None, None, None] / 1000,
        curve={0.0: 95.0, 0.02: 40.0, 8 / 255: 5.0},
        warnings=("beware",),
    )


def test_errors_and_passes_by_hand():
    _, found = evaluation()
    assert (found.clean_error, found.attacks["pgd"].error, found.robust_error) == (5.0, 80.0, 95.0)
    assert found.attacks["screen"].spent == Spent(210, 105, 1.75, 0.125)
    title, head, row = str(found).splitlines()
    assert title == "Error in % of 20 images (linf, ε 8/255)"
    assert head.split() == ["model", "clean", "PGD", "Screen", "worst", "case"]
    assert row.split() == ["run/last", "5.00", "80.00", "95.00", "95.00"]
    assert len(head) == len(row)


def test_json_has_no_infinity_and_names_every_example():
    record = json.loads(json.dumps(evaluation()[1].to_json(), allow_nan=False))
    assert record["attacks"]["screen"]["mean_loss"] is None
    assert record["attacks"]["pgd"]["mean_loss"] == pytest.approx(1.0)
    assert "components" not in record["attacks"]["pgd"]
    assert record["attacks"]["screen"]["components"]["apgd_t"] == {
        "attacked": 2,
        "broken": 1,
        "forward_passes": 20,
        "backward_passes": 10,
        "seconds": 0.25,
        "tracing_seconds": 0.125,
    }
    assert record["clean"]["wrong"] == [0] and record["worst_case"]["broken"] == list(range(1, 19))
    assert record["robust_accuracy_by_epsilon"][1] == {"epsilon": 0.02, "robust_accuracy": 40.0}


def test_the_files(tmp_path):
    x, found = evaluation()
    classifier = SimpleNamespace(logits_fn=lambda x: tf.one_hot(tf.cast(x[:, 0, 0, 0] > 0.5, tf.int32), 2))
    run = EvaluationDirectory(tmp_path)
    written = write(found, classifier, x, np.zeros(20, np.int32), run, source={"dataset": "digits"})
    assert [path.name for path in written] == [
        "evaluation.json",
        "examples.npz",
        "extremes.png",
        "robust_accuracy.png",
    ]
    assert all(path.stat().st_size for path in written) and not run.all_examples.exists()
    text = run.results.read_text()
    assert f'"broken": [{", ".join(map(str, range(1, 19)))}]' in text  # on one line
    assert json.loads(text)["dataset"] == "digits"
    with np.load(run.examples) as file:
        # The six smallest and the six largest perturbations among the broken ones.
        assert file["index"].tolist() == [*range(1, 7), *range(13, 19)]
        np.testing.assert_allclose(file["l2_sizes"], 2 * file["index"] / 1000, rtol=1e-3)
        assert not file["clean_predictions"].any() and file["adversarial_predictions"].all()
