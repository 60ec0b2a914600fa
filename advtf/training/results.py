"""What a finished training leaves: test errors of its snapshots, figures, and exported classifiers."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from advtf.attacks.robust_error import RobustError, robust_error
from advtf.classifiers.ensemble import build_ensemble
from advtf.classifiers.export import export_classifier
from advtf.data.sets import ImageData, evaluation_batches
from advtf.figures import training as plots
from advtf.storage.files import write_atomically
from advtf.storage.rundir import RunDirectory
from advtf.training.callbacks import load_snapshot
from advtf.training.run import SAMPLE_IMAGES, build_attack, build_classifier, period_ends
from advtf.training.settings import TrainConfig, to_json

EVALUATION_BATCH = 250


def load_classifiers(
    config: TrainConfig, run: RunDirectory, data: ImageData
) -> dict[str, tuple[keras.Model, dict]]:
    """Returns name -> (classifier, record) of the run's snapshots, and of the ensemble of the periods'.

    Order: last, best (if there is data to select on), those of the average, period1..., ensemble.
    """
    names = ["last", "best"] if data.validation or config.select_on == "test" else ["last"]
    if config.averaging != "none":
        names += [f"{config.averaging}_{name}" for name in names]
    periods = [f"period{number}" for number, _ in enumerate(period_ends(config), start=1)]
    periods = periods if len(periods) > 1 else []
    loaded = {}
    for name in [*names, *periods]:
        classifier = build_classifier(config, data)  # float32, whatever the training's precision
        loaded[name] = (classifier, load_snapshot(run.snapshots / f"{name}.npz", classifier))
    if periods:
        members = [loaded[name][0] for name in periods]
        loaded["ensemble"] = (build_ensemble(members), {"name": "ensemble", "members": periods})
    return loaded


def measure(
    classifiers: dict[str, tuple[keras.Model, dict]],
    config: TrainConfig,
    data: ImageData,
    jit_compile: bool = False,
) -> dict[str, RobustError]:
    """Measures clean and PGD error of each classifier on the test set, at the target ε, in float32.

    The ensemble is attacked jointly: the loss climbed is −log of the mean probability of the true class.
    """
    attack = build_attack(config, config.eval_restarts)
    errors = {}
    for name, (classifier, _) in classifiers.items():
        batches = evaluation_batches(data.test, EVALUATION_BATCH, limit=config.eval_examples)
        errors[name] = robust_error(
            _inference(classifier),
            batches,
            attack,
            config.eps,
            seed=config.seed,
            jit_compile=jit_compile,
            label=f"attacking {name}",
        )
    return errors


def _inference(classifier):
    return lambda x: classifier(x, training=False)


def write_examples(classifier: keras.Model, config: TrainConfig, data: ImageData, run: RunDirectory) -> None:
    """Saves the first test images, clean and attacked, with predictions: the data of the example grid."""
    x, y = next(iter(evaluation_batches(data.test, SAMPLE_IMAGES, limit=SAMPLE_IMAGES)))
    logits_fn = _inference(classifier)
    attack = tf.function(
        lambda x, y: build_attack(config)(logits_fn, x, y, config.eps, tf.constant([config.seed, 0]))
    )
    adversarial = attack(x, y)
    arrays = {
        "clean": x.numpy(),
        "adversarial": adversarial.numpy(),
        "labels": y.numpy(),
        "clean_predictions": tf.argmax(logits_fn(x), -1).numpy(),
        "adversarial_predictions": tf.argmax(logits_fn(adversarial), -1).numpy(),
        "epsilon": np.float64(config.eps),  # float32 would no longer print as 8/255
    }
    write_atomically(run.examples, lambda file: np.savez(file, **arrays))


def draw_figures(config: TrainConfig, run: RunDirectory) -> list[Path]:
    """Draws learning curves, schedules and the grid of adversarial examples; returns their paths."""
    run.figures.mkdir(exist_ok=True)
    paths = [run.figures / f"{name}.png" for name in ("learning_curves", "schedule", "adversarial_examples")]
    plots.learning_curves(run.metrics, paths[0], config.select_on)
    plots.schedule(run.metrics, paths[1], config.periods, config.schedule_unit)
    plots.adversarial_grid(run.examples, paths[2])
    return paths


def summarise(
    errors: dict[str, RobustError], classifiers: dict[str, tuple[keras.Model, dict]], select_on: str
) -> dict[str, dict]:
    """Returns JSON-able records of the errors in percent, by name; of the best also what it was chosen on."""
    return {
        name: {
            "clean_error": error.clean_error,
            "pgd_error": error.robust_error,
            "examples": error.examples,
            "epoch": classifiers[name][1].get("epoch"),
            **({"selected_on": select_on} if name.endswith("best") else {}),
        }
        for name, error in errors.items()
    }


def robust_overfitting(records: dict[str, dict]) -> dict[str, float]:
    """Returns PGD accuracy of the best minus that of the last epoch, in points, by name of the last.

    Li & Spratling 2023, Table 1 ("diff."): how much robustness training further has cost.
    """
    lasts = [name for name in records if name.endswith("last")]
    pairs = {name: name.removesuffix("last") + "best" for name in lasts}
    return {
        last: records[last]["pgd_error"] - records[best]["pgd_error"]
        for last, best in pairs.items()
        if best in records
    }


def export_all(
    classifiers: dict[str, tuple[keras.Model, dict]],
    records: dict[str, dict],
    config: TrainConfig,
    data: ImageData,
    directory: Path,
) -> dict[str, Path]:
    """Exports every classifier as ``<directory>/<name>``; returns name -> path of the SavedModel."""
    sample = next(iter(evaluation_batches(data.test, SAMPLE_IMAGES, limit=SAMPLE_IMAGES)))[0].numpy()
    paths = {}
    for name, (classifier, record) in classifiers.items():
        paths[name] = export_classifier(
            classifier,
            directory / name,
            kind="ensemble" if name == "ensemble" else "classifier",
            metadata={
                "dataset": data.name,
                "config": to_json(config),
                "test": records[name],
                **{key: record[key] for key in ("epoch", "members") if key in record},
            },
            sample=sample,
            overwrite=True,
        )
    return paths
