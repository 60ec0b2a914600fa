"""The files of a training run: a contract that other tools read."""

import dataclasses
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from advtf.classifiers import manifest
from advtf.errors import UsageError
from advtf.storage import jsonl
from advtf.storage.run_directory import RunDirectory


@dataclasses.dataclass(frozen=True)
class TrainingDirectory(RunDirectory):
    """The directory of a training run.

    Attributes:
        exports: the folder of the classifiers that the run exports; None if that has not been decided.
    """

    exports: Path | None = None

    kind = "training"
    command = "main"
    own_files = ("evaluation.json", "examples.npz", "dynamics.npz", "metrics.jsonl", "config.json")
    own_folders = ("checkpoints", "snapshots", "tensorboard", "figures")
    own_result = "results"

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

    def exporting(
        self, export_dir: str | None, names: Iterable[str], *, typed: bool, resume: bool, overwrite: bool
    ) -> Self:
        """Returns this directory with the folder that its exports go to, without writing anything.

        Args:
            export_dir: the user's choice, or None for ``saved_models/<run>``.
            names: of the exports that will be made.
            typed: whether the choice was made now, rather than when the run was started. One made earlier
                still leads to the folder if that was moved together with the run.
            resume, overwrite: whether the run is continued, or replaced.

        Raises:
            UsageError: the folder is in use or cannot be written, or exports in it are not of this run.
            DiskFull: there is no room in it.
        """
        name = Path(os.path.realpath(self.path)).name
        folder = Path(export_dir) if export_dir else manifest.EXPORTS / name
        earlier = self._exported_to() if resume and not typed else None
        if earlier and earlier.is_dir() and (export_dir or earlier.name == name):
            folder = earlier.relative_to(Path.cwd()) if earlier.is_relative_to(Path.cwd()) else earlier
        self.require_apart(folder, "export_dir")
        replace = resume or overwrite
        return dataclasses.replace(
            self, exports=manifest.choose_folder(folder, names, self.identity(), replace=replace)
        )

    def way_to_exports(self) -> str:
        """Returns the relative path that leads from here to the exports, which config.json keeps."""
        return os.path.relpath(os.path.realpath(self.exports), os.path.realpath(self.path))

    def _exported_to(self) -> Path | None:
        """Returns the folder of the exports as seen from where the run is now; None if that is not known."""
        way = self.read_config().get("exports")
        if not isinstance(way, str):
            return None
        return Path(os.path.realpath(Path(os.path.realpath(self.path), way)))

    def require_undamaged(self) -> None:
        """Checks the files of an unfinished run that it reads again when it is continued, as far as is cheap.

        Raises:
            UsageError: the metrics are not lines of numbers, or a snapshot is not an NPZ file.
        """
        if self.metrics.exists():
            jsonl.read(self.metrics, jsonl.OWN)
        for path in sorted(self.snapshots.glob("*.npz")):
            if not zipfile.is_zipfile(path):
                raise UsageError(
                    f"{path} must be a snapshot of the run. Received: no NPZ file. Restore it from a copy, "
                    "or train again with --overwrite."
                )

    def kept(self) -> str:
        """Returns which checkpoint the run continues from."""
        newest = max(self.checkpoints.glob("step-*.npz"), default=None)
        return f"the checkpoint of step {int(newest.stem[5:])}" if newest else ""

    def remove_run(self) -> None:
        """Removes the exports that carry the identity of this run, then its files and folders."""
        owner = self.identity()
        if owner:
            for folder in filter(None, {self.exports, self._exported_to()}):
                manifest.remove_exports(folder, owner)
        super().remove_run()
