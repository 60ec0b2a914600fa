"""The results of a finished training: test errors of its snapshots, figures, and exported classifiers.

`finish` is what `advtf.main` calls; it calls the other functions in their order.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from advtf.attacks.robust_error import RobustError, RobustErrorMeter
from advtf.classifiers import manifest
from advtf.classifiers.ensemble import build_ensemble
from advtf.classifiers.export import copy_export, export_classifier
from advtf.data.batches import evaluation_batches
from advtf.data.sets import ImageData
from advtf.errors import quantity
from advtf.figures import training as plots
from advtf.models import describe_network
from advtf.models.folding import folded
from advtf.settings.threat import format_epsilon
from advtf.storage.files import provenance, write_atomically, write_json
from advtf.training.callbacks import load_snapshot
from advtf.training.checkpoint import assign
from advtf.training.directory import TrainingDirectory
from advtf.training.run import SAMPLE_IMAGES, build_attack, build_classifier
from advtf.training.settings import TrainConfig

EVALUATION_BATCH = 250  # images at a time


def finish(
    config: TrainConfig,
    run: TrainingDirectory,
    data: ImageData,
    say: Callable[[str], None] = print,
) -> None:
    """Measures, draws and exports what a training has left, and writes `evaluation.json` last.

    Args:
        config: the settings of the training.
        run: its directory, which knows where its exports go.
        data: the images it was trained and is tested on.
        say: called with the lines for the user.
    """
    say("\nAttacking the test set …")
    classifiers = load_classifiers(config, run, data)
    measured = measure(classifiers, config, data)
    records = summarise(measured, classifiers, config.select_on)
    gaps = robust_overfitting(records)
    write_examples(classifiers["last"][0], config, data, run)
    figures = draw_figures(config, run)
    images = images_used(config, data)
    exported = export_all(classifiers, records, images, config, data, run)
    say(error_table(records, gaps, config))
    written = [run.metrics, run.results, *figures, *(run.exports / name for name in exported)]
    say("\nWrote " + "\n      ".join(map(str, written)))
    attack = {"name": f"PGD-{config.attack_steps}", "norm": config.norm, "epsilon": config.eps}
    attack |= {"relative_step": config.relative_step, "restarts": config.eval_restarts, "seed": config.seed}
    summary = {
        "attack": attack,
        "images": images,
        "results": records,
        "robust_overfitting": gaps,
        "exports": {name: str(path) for name, path in exported.items()},
    }
    write_json(run.results, provenance() | summary)


def load_classifiers(
    config: TrainConfig, run: TrainingDirectory, data: ImageData
) -> dict[str, tuple[keras.Model, dict]]:
    """Loads the run's snapshots, and builds the ensemble of those at the ends of the periods.

    Args:
        config: the settings of the training.
        run: its directory.
        data: gives the image shape, the number of classes, and whether there are validation images.

    Returns:
        The classifier and its record (name, epoch and logs) by name, in this order: last, best if there is
        data to select on, the same two of the weight average, period1 and so on, ensemble.
    """
    loaded = {}
    for name in config.exported:
        if name != "ensemble":
            classifier = build_classifier(config, data)  # in float32, whatever the precision of training
            loaded[name] = (classifier, load_snapshot(run.snapshots / f"{name}.npz", classifier))
    if "ensemble" in config.exported:
        periods = [name for name in loaded if name.startswith("period")]
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

    The ensemble is attacked as one classifier, whose loss is −log of the mean probability of the true class.

    Args:
        classifiers: what `load_classifiers` returned.
        config: gives the attack, its radius and its seed, and how many test images are measured.
        data: the images.
        jit_compile: whether the attack is compiled with XLA.

    Returns:
        The errors by the name of the classifier.
    """
    attack = build_attack(config, config.eval_restarts)
    network = build_classifier(config, data)
    same_network = _meter(network, attack, config, jit_compile)  # traced once, for all of its weights
    batches = evaluation_batches(data.test, EVALUATION_BATCH, limit=config.eval_examples)
    errors, measured = {}, {}
    for name, (classifier, _) in classifiers.items():
        # The last period ends with the last epoch, and the best epoch is often the end of a period.
        weights = _fingerprint(classifier)
        if weights not in measured:
            if name == "ensemble":
                meter = _meter(classifier, attack, config, jit_compile)
            else:
                assign(network.variables, [variable.numpy() for variable in classifier.variables], name)
                meter = same_network
            measured[weights] = meter(batches, seed=config.seed, label=f"attacking {name}")
        errors[name] = measured[weights]
    return errors


def _meter(classifier, attack, config, jit_compile):
    view = partial(folded, classifier)
    return RobustErrorMeter(_inference(classifier), attack, config.eps, jit_compile=jit_compile, view=view)


def _fingerprint(classifier) -> str:
    """Returns the SHA-256 of all weights: classifiers of one architecture that agree in it are the same."""
    digest = hashlib.sha256()
    for variable in classifier.variables:
        digest.update(np.ascontiguousarray(variable.numpy()))
    return digest.hexdigest()


def _inference(classifier):
    return lambda x: classifier(x, training=False)


def write_examples(
    classifier: keras.Model, config: TrainConfig, data: ImageData, run: TrainingDirectory
) -> None:
    """Saves the first test images, clean and attacked, with predictions, for the figure of examples."""
    x, y = next(iter(evaluation_batches(data.test, SAMPLE_IMAGES, limit=SAMPLE_IMAGES)))
    logits_fn = _inference(classifier)
    attack = tf.function(
        lambda x, y: build_attack(config)(logits_fn, x, y, config.eps, tf.constant([config.seed, 0])),
        autograph=False,
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


def draw_figures(config: TrainConfig, run: TrainingDirectory) -> list[Path]:
    """Draws the learning curves, the schedules and the adversarial examples; returns the files' paths."""
    run.figures.mkdir(exist_ok=True)
    paths = [run.figures / f"{name}.png" for name in ("learning_curves", "schedule", "adversarial_examples")]
    plots.learning_curves(run.metrics, paths[0], config.select_on)
    plots.schedule(run.metrics, paths[1], config.periods, config.schedule_unit)
    plots.adversarial_grid(run.examples, paths[2])
    return paths


def images_used(config: TrainConfig, data: ImageData) -> dict[str, dict]:
    """Returns which images the run was trained, validated and tested on: number and SHA-256 of each part."""
    parts = {"train": data.train, "validation": data.validation}
    parts["test"] = data.test.select(slice(config.eval_examples))
    return {"order": config.order} | {name: part.record() for name, part in parts.items() if part}


def summarise(
    errors: dict[str, RobustError], classifiers: dict[str, tuple[keras.Model, dict]], select_on: str
) -> dict[str, dict]:
    """Returns the errors in percent by name, as JSON values; that of "best" says what it was chosen on."""
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
    """Returns the PGD accuracy of the best epoch minus that of the last, in points, by the name of the last.

    This is how much robustness the training after the best epoch has cost (Li & Spratling 2023, table 1,
    "diff.").
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
    images: dict[str, dict],
    config: TrainConfig,
    data: ImageData,
    run: TrainingDirectory,
) -> dict[str, Path]:
    """Exports every classifier as ``<run.exports>/<name>``; returns the paths of the SavedModels by name.

    Raises:
        UsageError: an export would replace one of another run, which has appeared since the run began.
    """
    owner = run.identify()
    sample = next(iter(evaluation_batches(data.test, SAMPLE_IMAGES, limit=SAMPLE_IMAGES)))[0].numpy()
    paths, exported = {}, {}
    for name, (classifier, record) in classifiers.items():
        manifest.require_own(run.exports / name, owner)
        kind = "ensemble" if name == "ensemble" else "classifier"
        metadata = {
            "dataset": data.name,
            "network": describe_network(config.model, config.network),
            "run": owner.record(run.exports / name),
            "config": config.to_json(),
            "images": images,
            "test": records[name],
            **{key: record[key] for key in ("epoch", "members") if key in record},
        }
        same = kind, _fingerprint(classifier)
        if same in exported:
            paths[name] = copy_export(exported[same], run.exports / name, metadata, overwrite=True)
        else:
            paths[name] = exported[same] = export_classifier(
                classifier, run.exports / name, kind=kind, metadata=metadata, sample=sample, overwrite=True
            )
    return paths


def error_table(records: dict[str, dict], gaps: dict[str, float], config: TrainConfig) -> str:
    """Returns the errors of all classifiers as a table, and the robust overfitting below it."""
    examples = next(iter(records.values()))["examples"]
    attack = f"PGD-{config.attack_steps}" + (f"×{config.eval_restarts}" if config.eval_restarts > 1 else "")
    epsilon = format_epsilon(config.eps)
    rows = [f"\nError in % of {quantity(examples, 'test image')} ({attack}, {config.norm}, ε {epsilon})"]
    rows.append(f"{'':<22}{'clean':>8}{attack:>10}")
    for name, record in records.items():
        label = f"{name} (epoch {record['epoch']})" if record["epoch"] else name
        chosen = "  chosen on the test images" if record.get("selected_on") == "test" else ""
        rows.append(f"{label:<22}{record['clean_error']:>8.2f}{record['pgd_error']:>10.2f}{chosen}")
    for name, gap in gaps.items():
        rows.append(f"robust overfitting of {name}: {gap:.2f} points (its error less that of the best)")
    return "\n".join(rows)
