"""The files of a training run: a contract that other tools read."""

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
        """The record of every epoch (a JSON object on each line)."""
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
        """The folder of the states that a run continues from."""
        return self.path / "checkpoints"

    @property
    def snapshots(self) -> Path:
        """The folder of the classifiers at the ends of periods, the best and the last one."""
        return self.path / "snapshots"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def figures(self) -> Path:
        """The folder of the PNG figures that are drawn from the files above."""
        return self.path / "figures"

    def remove_run(self) -> None:
        """Removes the run's exports, then its files and folders."""
        with contextlib.suppress(
            OSError, ValueError, AttributeError
        ):  # an unfinished run has exported nothing
            manifest.remove_exports(json.loads(self.results.read_text()).get("exports", {}).values())
        super().remove_run()
