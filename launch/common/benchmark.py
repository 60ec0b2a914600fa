"""The one format of all benchmarks: comparisons of costs, and the file of an entry of the suite.

`Comparison` is one row: what was done, by whom, against whom, and both costs in every round. `Result` is the
file of an entry: its comparisons with the machine, the versions and the command. Both are written and read
here, so that the figure and the tables of the pages are made from files only.
"""

import dataclasses
import json
import os
import platform
import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advtf.errors import UsageError
from advtf.storage.files import versions, write_json

COSTS = ("s", "products")  # units of which less is better
AGREEMENT = "% robust error"  # the unit of two implementations that should find the same
DIFFERENCE = "of the reference"  # the unit of a difference from right numbers, against its bound
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "bf16", "sve")  # of a CPU


@dataclass(frozen=True)
class Comparison:
    """One thing against another, with both costs in every round.

    Attributes:
        what: was done, such as "PGD-10 step of ResNet18 w=8".
        ours: how it was done here, such as "advtf, bfloat16".
        against: whom, such as "PyTorch, channels-last, bfloat16".
        pairs: (ours, theirs) of each round, in `unit`. Costs of a round are taken one after the other.
        unit: "s" or "products", where less is better, "% robust error", which should agree, or "of the
            reference" for a difference from right numbers against its bound.
        work: what both did in a round, such as "128 images".
        goal: the largest ratio that is aimed at. Defaults to none.
        facts: further JSON values about this row, such as seconds of tracing.

    Raises:
        ValueError: no round, another unit, or a cost that is not above zero.
    """

    what: str
    ours: str
    against: str
    pairs: tuple[tuple[float, float], ...]
    unit: str = "s"
    work: str = ""
    goal: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "pairs", tuple((float(ours), float(other)) for ours, other in self.pairs))
        units = (*COSTS, AGREEMENT, DIFFERENCE)
        if self.unit not in units:
            raise ValueError(f"unit must be one of {units}. Received: unit={self.unit!r}.")
        if not self.pairs or not all(ours > 0 and other > 0 for ours, other in self.pairs):
            raise ValueError(f"pairs must be at least one round of costs > 0. Received: pairs={self.pairs}.")

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours over theirs, by round."""
        return tuple(ours / other for ours, other in self.pairs)

    @property
    def ratio(self) -> float:
        """The median of the ratios of the rounds."""
        return statistics.median(self.ratios)

    @property
    def medians(self) -> tuple[float, float]:
        """The median of our costs, and of theirs."""
        ours, other = zip(*self.pairs, strict=True)
        return statistics.median(ours), statistics.median(other)

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        return None if self.goal is None else self.ratio <= self.goal

    def to_json(self) -> dict:
        """Returns the row, with what is computed from its rounds."""
        ours, other = self.medians
        computed = {"ratio": self.ratio, "lowest": min(self.ratios), "highest": max(self.ratios)}
        return dataclasses.asdict(self) | computed | {"ours_median": ours, "against_median": other}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Comparison":
        """Returns the row that `to_json` wrote."""
        return cls(**{each.name: content[each.name] for each in dataclasses.fields(cls)})

    def __str__(self) -> str:
        ours, other = self.medians
        spread = f"({min(self.ratios):.2f} to {max(self.ratios):.2f})"
        goal = "" if self.goal is None else f"  goal {self.goal:.2f}{'' if self.reached else ', missed'}"
        costs = f"{ours:.4g} against {other:.4g} {self.unit}"
        return f"{self.what}: {self.ours} / {self.against}\n    {self.ratio:.3f} {spread}, {costs}{goal}"


@dataclass(frozen=True)
class Result:
    """What one entry of the suite found.

    Attributes:
        entry: its name.
        about: what is compared, in a sentence.
        command: that measures it again.
        date: of the measurement, such as "2026-11-21".
        versions: of the packages that were compared.
        machine: where, as `machine` tells it.
        settings: the options of the entry.
        comparisons: the rows.
        facts: further JSON values about the whole, such as what could not be measured.
    """

    entry: str
    about: str
    command: str
    date: str
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    comparisons: tuple[Comparison, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Writes ``<entry>.json``, in place of what an earlier measurement left, and returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.entry}.json"
        plain = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        write_json(path, plain | {"comparisons": [each.to_json() for each in self.comparisons]})
        return path

    @classmethod
    def read(cls, path: Path) -> "Result":
        """Reads the file of an entry.

        Raises:
            UsageError: it is not one.
        """
        try:
            content = json.loads(Path(path).read_text())
            rows = tuple(Comparison.from_json(row) for row in content["comparisons"])
            content = {"facts": {}} | content  # which the first files lack
            fields = {each.name: content[each.name] for each in dataclasses.fields(cls)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path} must be a result of python -m launch.benchmarks. Received: {error!r}. "
                "Measure it again."
            ) from None
        return cls(**fields | {"comparisons": rows})


def read_results(folder: Path) -> dict[str, Result]:
    """Returns the results in a folder by the names of their entries, which are those of the files."""
    return {path.stem: Result.read(path) for path in sorted(Path(folder).glob("*.json"))}


def versions_of(packages: Iterable[str] = ()) -> dict[str, str]:
    """Returns the versions of advtf and what it runs on, and of further packages that are installed."""
    import importlib.metadata

    found = versions()
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def machine() -> dict[str, Any]:
    """Returns what of this machine costs depend on: CPU, its features, cores, memory, GPUs; not its name.

    TensorFlow is imported, as it is what knows the GPUs.
    """
    from advtf.runtime import cores, import_tensorflow

    described = _cpu_description()
    tf = import_tensorflow()
    gpus = (tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU"))
    return {
        "cpu": described.get("model name") or platform.machine(),
        "architecture": platform.machine(),
        "features": [each for each in FEATURES if each in described.get("flags", "").split()],
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "gpus": [str(details.get("device_name", "GPU")) for details in gpus],
        "system": platform.system(),
    }


def _cpu_description() -> dict[str, str]:
    """Returns the lines of /proc/cpuinfo about the first core, or nothing where there is no such file."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    lines = re.findall(r"^(\S[^\t:\n]*?)\s*:[ \t]*(.*)$", text.partition("\n\n")[0], re.MULTILINE)
    described = dict(lines)
    return described | {"flags": described.get("flags") or described.get("Features", "")}
