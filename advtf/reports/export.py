"""The chapter of an export, its model card: what it takes and returns, its training, what was measured."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advtf.classifiers.manifest import MANIFEST, read_manifest, weights_digest
from advtf.errors import UsageError, quantity
from advtf.evaluation.report import EvaluationDirectory
from advtf.reports import evaluation, parts, training
from advtf.reports.chapter import Chapter, Row
from advtf.reports.html import Html, code, element, fold, join, number, pairs
from advtf.reports.pictures import Pictures
from advtf.training.directory import TrainingDirectory
from advtf.training.settings import TrainConfig

OUTPUTS = {"logits": "logits", "log_probabilities": "log-probabilities", "probabilities": "probabilities"}


def chapter(folder: Path, pictures: Pictures, evaluations: Sequence[EvaluationDirectory] = ()) -> Chapter:
    """Returns the model card of an export.

    Args:
        folder: of the export.
        pictures: of the page.
        evaluations: those on the same page; the ones of these weights are part of what was measured.
    """
    manifest = read_manifest(folder)
    place = folder.resolve()
    told = Chapter("model card", folder, f"{place.parent.name}/{place.name}")
    own = _evaluations(told, folder, evaluations)
    config = _settings(told, manifest, folder / MANIFEST)
    told.lead = (
        f"{manifest.get('network') or manifest['kind']}, {quantity(manifest['num_classes'], 'class')}."
    )
    _headline(told, manifest, own)
    source = folder / MANIFEST
    told.add("Use", lambda: _use(folder, manifest), source)
    told.add("Limits", lambda: _limits(manifest, config, own), source)
    if config:
        told.add("What was trained", lambda: parts.described(training.plan(config)), source)
    run = _run(folder, manifest)
    if run:
        training.add_curves(told, run, config, pictures)
        told.add("Adversarial examples", lambda: training.examples(run), run.examples)
    if "images" in manifest:
        told.add("Images", lambda: parts.images_table(manifest["images"]), source)
    told.add("Origin", lambda: _origin(manifest, config, run), source)
    return told


def _settings(told, manifest, path):
    if not manifest.get("config"):
        return None
    try:
        return TrainConfig.from_json(manifest["config"])
    except UsageError as error:
        told.problems.append(parts.unread_settings(path, error))
        return None


def _evaluations(told: Chapter, folder: Path, evaluations) -> list[dict]:
    """Returns what evaluations of these weights have found."""
    found = []
    digest = weights_digest(folder) if evaluations else None
    for run in evaluations:
        if run.state() == "finished" and run.read_config().get("weights") == digest:
            told.attempt(lambda run=run: found.append(run.read_results()), run.results)
    return found


def _run(folder: Path, manifest: Mapping[str, Any]) -> TrainingDirectory | None:
    """Returns the directory of the run that made the export, if it is still where the manifest leads."""
    way = (manifest.get("run") or {}).get("directory")
    if not isinstance(way, str):
        return None
    run = TrainingDirectory(Path(os.path.realpath(folder / way)))
    identity = run.identity()
    return run if identity and identity.has_made(folder, manifest["run"]) else None


def _headline(told, manifest, own):
    test = manifest.get("test") or {}
    config = manifest.get("config") or {}
    if "pgd_error" in test:
        attack = f"PGD-{config['attack_steps']}" if "attack_steps" in config else "PGD"
        where = parts.ball(config["norm"], config["eps"]) if "eps" in config else ""
        told.tiles.append(("Clean error", number(test["clean_error"], 2, "%"), None))
        told.tiles.append((f"{attack} error", number(test["pgd_error"], 2, "%"), where))
        about = f"{quantity(test['examples'], 'test image')}, {attack}, {where}"
        told.rows.append(Row(told.name, about, test["clean_error"], test["pgd_error"]))
    else:
        told.rows.append(Row(told.name, remark="without test errors"))
    for record in own:
        names = ", ".join(evaluation.labels(record).values())
        worst = number(record["worst_case"]["error"], 2, "%")
        told.tiles.append((f"Error under {names}", worst, parts.ball(record["norm"], record["epsilon"])))


def _use(folder, manifest):
    shape, (low, high) = manifest["input"]["shape"], manifest["input"]["range"]
    data = manifest.get("dataset")
    kind = (
        "the ensemble of " + ", ".join(manifest["members"]) if manifest.get("members") else manifest["kind"]
    )
    entries = [
        ("Classifies", f"images of {data}" if data else "images; the manifest does not say of what"),
        (
            "Takes",
            f"{manifest['input']['dtype']} images of {'×'.join(map(str, shape))}, pixels in [{low}, {high}]",
        ),
        ("Returns", f"{OUTPUTS[manifest['output']]} of {quantity(manifest['num_classes'], 'class')}"),
        ("Is", kind),
    ]
    if manifest.get("epoch"):
        entries.append(("Epoch", number(manifest["epoch"])))
    loading = (
        "import advtf\n\n"
        f"classifier = advtf.load_classifier({str(folder)!r})\n"
        f"outputs = classifier(images)  # {OUTPUTS[manifest['output']]}"
    )
    return join(pairs(entries), code(loading))


def _limits(manifest, config, own):
    images, test = manifest.get("images") or {}, manifest.get("test") or {}
    lines, attacks, radii = [], [], {}
    if "train" in images:
        lines.append(training.trained_on(images, manifest.get("dataset")))
    if test.get("selected_on") == "test":
        lines.append(f"The epoch was {training.CHOSEN_ON_TEST}, so the errors of its training are too small.")
    if config and "pgd_error" in test:
        attacks, radii = [f"PGD-{config.attack_steps}"], {config.norm: config.eps}
        what = f"Measured by its training: {attacks[0]} from {quantity(config.eval_restarts, 'start')}"
        errors = [test["pgd_error"]]
        lines.append(parts.measured(what, config.norm, config.eps, test["examples"], errors))
    for record in own:
        lines += evaluation.limits(record)
        attacks += evaluation.labels(record).values()
        norm = record["norm"]
        radii[norm] = max(radii.get(norm, 0.0), evaluation.largest_radius(record))
    if not attacks:
        return parts.limits([*lines, "Not measured: any error under attack."])
    left = parts.not_measured(attacks, radii, manifest.get("dataset"))
    return parts.limits([*lines, parts.LOWER_BOUND, left])


def _origin(manifest, config, run) -> Html:
    known = {
        name: manifest[name]
        for name in ("converted_from", "reference_logits", "settings")
        if name in manifest
    }
    made = pairs(
        [("Run", element("code", run.path.name if run else "its directory is not where the manifest leads"))]
    )
    tables = parts.values_table("Where it comes from", known) if known else None
    settings = config or manifest.get("config")
    return join(
        made if manifest.get("run") else None,
        tables,
        parts.versions(manifest),
        parts.every_setting(settings) if settings else None,
        fold("How the training is repeated", parts.repeat("main", run.read_config(), None)) if run else None,
    )
