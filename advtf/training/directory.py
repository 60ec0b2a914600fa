"""The files of a training run: a contract that other tools read. Imports no TensorFlow."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from advtf.classifiers import manifest
from advtf.storage.run_directory import RunDirectory


@dataclass(frozen=True)
class TrainingDirectory(RunDirectory):
    """The directory of a training run."""

    kind = "training"
    command = "main"
    own_files = ("evaluation.json", "examples.npz", "dynamics.npz", "metrics.jsonl", "config.json")
    own_folders = ("checkpoints", "snapshots", "tensorboard", "figures")

    @property
    def metrics(self) -> Path:
        """One JSON object per epoch."""
        return self.path / "metrics.jsonl"

    @property
    def examples(self) -> Path:
        """Clean and adversarial test images with predictions (NPZ)."""
        return self.path / "examples.npz"

    @property
    def dynamics(self) -> Path:
        """Gradient norm, robust error and distance of the first and last updates (NPZ), where recorded."""
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

    def remove_run(self) -> None:
        """Removes the run's exports, then its files and folders."""
        with contextlib.suppress(OSError, ValueError, AttributeError):  # unfinished: it has exported nothing
            manifest.remove_exports(json.loads(self.results.read_text()).get("exports", {}).values())
        super().remove_run()
