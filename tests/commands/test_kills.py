"""A training that is killed twelve times, in every phase, ends with the bits of one that never was."""

import json
import os
import signal
import time

import numpy as np
import pytest
from helpers import command
from helpers.run import epoch_values, reached, snapshot_bits

from advtf.training.directory import TrainingDirectory

COMMAND = "advtf.main"
EPOCHS, STEPS = 3, 20
SETTINGS = [f"--epochs={EPOCHS}", "--width=2", "--attack_steps=3", "--optimizer=sgd", "--lr=0.05", "--seed=5"]
SETTINGS += ["--schedule_unit=step", "--reset_optimizer", "--periods=2", "--checkpoint_minutes=1e-9"]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def results(run):
    """What the run reports of its exports."""
    return json.loads(run.results.read_text())["results"]


def exported(run, began):
    """How many classifiers have been exported since then."""
    manifests = run.exports.glob("*/manifest.json") if run.exports.exists() else ()
    return sum(path.stat().st_mtime >= began for path in manifests)


def last_values(run):
    """The arrays of the newest checkpoint: weights, optimizer, averages and what the callbacks keep."""
    with np.load(max(run.checkpoints.glob("step-*.npz"))) as archive:
        return {name: archive[name].tobytes() for name in archive.files if "/" in name}


@pytest.mark.slow
def test_twelve_kills_change_no_bit(tmp_path):
    seed = os.getpid()
    rng = np.random.default_rng(seed)
    exports = tmp_path / "saved_models"
    whole, run = (TrainingDirectory(tmp_path / name, exports=exports / name) for name in ("whole", "run"))
    code, _, error = command.run(COMMAND, tmp_path, *SETTINGS, "--out_dir=whole")
    assert (code, error) == (0, "")
    # One while it starts, eight between the first and the last step, three while it measures and exports.
    steps = np.sort(rng.integers(1, EPOCHS * STEPS - 10, 8))
    phases = ["start", *map(int, steps), *(f"export {count}" for count in (0, 1, 3))]
    for number, phase in enumerate(phases):
        sent = SIGNALS[0] if phase == "start" else SIGNALS[number % 3]
        delay = float(rng.uniform(0, 4 if phase == "start" else 0.1))  # anywhere, a write included
        resume = ["--resume", "--checkpoint_minutes=1e-9"] if run.config.exists() else SETTINGS
        began = time.time()
        process = command.start(COMMAND, tmp_path, "--out_dir=run", *resume)

        def ready(phase=phase, began=began):
            if phase == "start":
                return True
            if isinstance(phase, int):  # this process, too, has written a checkpoint
                written = run.checkpoints.exists() and run.checkpoints.stat().st_mtime >= began
                return written and reached(run.checkpoints, phase)
            return reached(run.checkpoints, EPOCHS * STEPS) and exported(run, began) >= int(phase.split()[1])

        code, out, error = command.stop(process, ready, sent, delay)
        told = f"kill {number + 1} by {sent.name}, {phase}, after {delay} s, seed {seed}: {out[-500:]}{error}"
        assert code != 0 and run.state() != "finished", told
        assert "Traceback" not in error and (sent != signal.SIGKILL or code == -sent), told
    code, out, error = command.run(COMMAND, tmp_path, "--out_dir=run", "--resume")
    assert (code, error) == (0, ""), f"seed {seed}"
    assert epoch_values(run.metrics) == epoch_values(whole.metrics), f"seed {seed}"
    assert snapshot_bits(run.snapshots) == snapshot_bits(whole.snapshots), f"seed {seed}"
    assert last_values(run) == last_values(whole), f"seed {seed}"
    assert results(run) == results(whole), f"seed {seed}"
    names = [sorted(path.name for path in each.exports.iterdir()) for each in (run, whole)]
    assert names[0] == names[1] and exported(run, 0) == len(results(run))
