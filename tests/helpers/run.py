"""What the tests of whole runs share: reading results, and the bits that must not change."""

import json
import resource
from pathlib import Path

import numpy as np

TIMES = ("seconds", "images_per_second")


def snapshot_bits(folder):
    """file name -> array name -> (dtype, shape, bytes) of every snapshot; NPZ files hold dates as well."""
    found = {}
    for path in sorted(Path(folder).glob("*.npz")):
        with np.load(path) as archive:
            found[path.name] = {
                name: (archive[name].dtype.str, archive[name].shape, archive[name].tobytes())
                for name in archive.files
            }
    return found


def epoch_values(path):
    """The records of metrics.jsonl without what a clock measured."""
    records = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def reached(checkpoints, step):
    """Whether there is a checkpoint of this step or a later one."""
    return any(int(path.stem[5:]) >= step for path in Path(checkpoints).glob("step-*.npz"))


def tree(folder):
    """Every path below `folder` with its size and time of change."""
    found = sorted(Path(folder).rglob("*"))
    return {str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in found}


def children_seconds():
    """Processor time of all processes started so far and ended; unlike a clock, it ignores other work."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
