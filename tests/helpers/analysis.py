"""What the tests of the analysis share: folders that look like exports, and a study of the tests' own."""

import json
import types

import numpy as np

from advtf import studies
from advtf.classifiers import manifest
from advtf.studies.context import StudyContext
from advtf.studies.run import completed
from advtf.studies.settings import settings_class
from advtf.training.settings import TrainConfig

IMAGES = np.random.default_rng(0).random((6, 8, 8, 1), np.float32)
LABELS = np.arange(6, dtype=np.int32)
FGSM = {"norm": "linf", "attack_steps": 1, "attack_step_size": "eps", "random_start": "none"}


def study_context(
    folder, study, classifiers=(), images=(None, None), test_images=(None, None), say=None, **settings
):
    """The context of a study; `folder` is that of the analysis. Other settings have their defaults."""
    chosen = completed(settings_class([study]).of({"study": (study,), **settings}), {})
    context = StudyContext(
        chosen, list(classifiers), *images, *test_images, folder, say or (lambda line: None)
    )
    return context.of_study(study)


def fake_export(place, *, shape=(8, 8, 1), classes=10, **training):
    """A folder that planning takes for an export; `training` are settings of its training, if it tells."""
    place.mkdir(parents=True)
    (place / "saved_model.pb").write_bytes(b"")
    config = {"config": TrainConfig.of(training).to_json()} if training else {}
    manifest.write_manifest(place, manifest.make_manifest(place.name, "classifier", shape, classes, config))
    return str(place)


def fake_classifier(name="a", shape=(8, 8, 1), classes=10, weights=(1.0, 2.0)):
    """What a plan sees of a classifier."""
    parameters = types.SimpleNamespace(value=lambda: np.array(weights))
    return types.SimpleNamespace(
        name=name, input_shape=shape, num_classes=classes, parameters=parameters, config={}
    )


class Recorder:
    """A study that counts its calls and writes the mean of the images; `fail` is raised after its state.

    Attributes:
        contexts: one per call.
        found: content of the state at the start of each call.
    """

    def __init__(self):
        self.contexts, self.found, self.fail = [], [], None

    def run(self, context):
        self.contexts.append(context)
        state = context.folder / "state"
        state.mkdir(exist_ok=True)
        progress = state / "progress"
        self.found.append(progress.read_text() if progress.exists() else None)
        progress.write_text(f"call {len(self.contexts)}")
        if self.fail:
            failure, self.fail = self.fail, None
            raise failure
        images = [] if context.x is None else context.x
        context.say(f"mean {np.mean(images) if len(images) else 0:.4f}")
        record = context.write_json(context.name, {"mean": np.mean(images) if len(images) else np.nan})
        arrays = context.write_arrays(context.name, weights=np.arange(3.0))
        return [record, arrays]


def register(monkeypatch, name, **requirements):
    """Adds a `Recorder` to the registry for one test; by default it needs no model."""
    recorder = Recorder()
    entry = studies.Study(recorder.run, **{"models": 0, **requirements})
    monkeypatch.setitem(studies.STUDIES, name, entry)
    return recorder


def read(path):
    return json.loads(path.read_text())
