"""The files of a run and what kind of run they tell of: a contract other tools read."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advtf.errors import UsageError
from advtf.storage.files import write_json
from advtf.storage.provenance import provenance
from advtf.studies import STUDIES
from advtf.training.settings import to_json

LOCK = ".lock"
TRAINING, EVALUATION, ANALYSIS = "training", "evaluation", "analysis"  # of advtf.main, .evaluate, .analyze
OWN_FILES = {  # by kind; the last one marks a run, so it is removed last
    TRAINING: ("evaluation.json", "examples.npz", "dynamics.npz", "metrics.jsonl", "config.json"),
    EVALUATION: ("evaluation.json", "examples.npz", "adversarial_examples.npz", "config.json"),
    ANALYSIS: ("analysis.json", "config.json"),
}
OWN_FOLDERS = {
    TRAINING: ("checkpoints", "snapshots", "tensorboard", "figures"),
    EVALUATION: ("figures", "state"),
    ANALYSIS: STUDIES,
}


@dataclass(frozen=True)
class RunDirectory:
    """Paths of the files a run writes; a contract other tools read.

    Attributes:
        path: of the directory.
        kind: what its files must be: a training, an evaluation or an analysis.
    """

    path: Path
    kind: str = TRAINING

    @property
    def config(self) -> Path:
        """Kind, configuration, versions and command (JSON)."""
        return self.path / "config.json"

    @property
    def results(self) -> Path:
        """Final numbers (JSON); written last, so its presence means the run is finished."""
        return self.path / OWN_FILES[self.kind][0]

    @property
    def metrics(self) -> Path:
        """One JSON object per epoch."""
        return self.path / "metrics.jsonl"

    @property
    def evaluation(self) -> Path:
        """Final errors (JSON): the `results` of a training, with its exports, and of an evaluation."""
        return self.path / "evaluation.json"

    @property
    def examples(self) -> Path:
        """Clean and adversarial test images with predictions (NPZ)."""
        return self.path / "examples.npz"

    @property
    def all_examples(self) -> Path:
        """Every image of an evaluation at its worst point (NPZ), where asked for."""
        return self.path / "adversarial_examples.npz"

    @property
    def attacked(self) -> Path:
        """Batches an unfinished evaluation has attacked."""
        return self.path / "state"

    @property
    def dynamics(self) -> Path:
        """Gradient norm, robust error and distance of the first and last updates (NPZ), where asked for."""
        return self.path / "dynamics.npz"

    @property
    def checkpoints(self) -> Path:
        """States to resume from."""
        return self.path / "checkpoints"

    @property
    def snapshots(self) -> Path:
        """Classifiers at period ends, best and last."""
        return self.path / "snapshots"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard event files."""
        return self.path / "tensorboard"

    @property
    def figures(self) -> Path:
        """PNG figures drawn from the files above."""
        return self.path / "figures"

    def state(self) -> str:
        """Returns "new" (missing or empty), "finished", "unfinished", "other" (of another kind) or "foreign".

        Raises:
            UsageError: the path cannot be read or is not a directory.
        """
        try:
            names = {entry.name for entry in self.path.iterdir() if not _is_scratch(entry.name)}
        except FileNotFoundError:
            return "new"
        except OSError as error:
            raise UsageError(
                f"out_dir must be a readable directory. Received: {self.path} ({error.strerror})."
            ) from error
        if not names:
            return "new"
        kind = self.found()
        if kind != self.kind:
            return "other" if kind else "foreign"
        return "finished" if self.results.name in names else "unfinished"

    def found(self) -> str | None:
        """Returns the kind of the run that is there, or None."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            record = json.loads(self.config.read_text())
            if "advtf" in record.get("versions", {}):
                return record.get("kind", TRAINING)
        return None

    def write_config(self, config: Any, options: Any, **more: Any) -> None:
        """Writes config.json: what marks the directory, and what ``--resume`` continues with.

        Args:
            config, options: settings dataclasses.
            **more: other entries, JSON values.
        """
        settings = {"config": to_json(config), "options": to_json(options)}
        write_json(self.config, provenance() | {"kind": self.kind} | settings | more)

    def read_config(self) -> dict:
        """Returns the content of config.json.

        Raises:
            UsageError: it cannot be read.
        """
        try:
            return json.loads(self.config.read_text())
        except (OSError, ValueError) as error:
            raise UsageError(f"--resume requires a readable {self.config}. Received: {error}.") from error


def _is_scratch(name):
    return name == LOCK or (name.startswith(".") and name.endswith(".partial"))  # of a write that was killed
