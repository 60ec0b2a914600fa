"""The results of a finished training: what is measured, and what the best epoch was chosen on."""

import pytest
from helpers.resume import attempt, trained_snapshot

from advtf.data.arrays import to_unit_float
from advtf.training import results
from advtf.training.settings import TrainConfig


@pytest.mark.slow
def test_the_best_epoch_can_be_chosen_on_the_test_images(tmp_path):
    settings = dict(model="mlp", width=1, attack_steps=1, epochs=2, steps_per_epoch=4, batch_size=32,
                    periods=(), lr=0.01, select_on="test")  # fmt: skip
    config = TrainConfig.of(settings)
    assert config.val_fraction == 0
    run = attempt(tmp_path / "run", settings, minutes=10).run
    classifier, record, digits = trained_snapshot(run, "best", config)
    assert digits.validation is None
    logits = classifier(to_unit_float(digits.test.images), training=False).numpy()
    accuracy = (logits.argmax(-1) == digits.test.labels).mean()
    assert record["logs"]["val_clean_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    loaded = results.load_classifiers(config, run, digits)
    summary = results.summarise(results.measure(loaded, config, digits), loaded, config.select_on)
    assert summary["best"]["selected_on"] == "test" and "selected_on" not in summary["last"]
