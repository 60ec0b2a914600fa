"""Training runs as far as their dynamics are read, with values that are known."""

import json

import numpy as np

UPDATES, TOTAL = 4, 20


def write_run(folder, eps=0.1, scale=1.0, steps=None, losses=(2.0, 1.5, 1.0), **config):
    """A training run as far as the study reads it; every value of its log is known."""
    folder.mkdir(parents=True)
    steps = np.array(steps or [1, 2, 3, 4, 17, 18, 19, 20])
    columns = dict(
        gradient_norm=scale / steps, robust_error=100 - 2.0 * steps, distance=scale * np.sqrt(steps)
    )
    np.savez(
        folder / "dynamics.npz", step=steps, epsilon=0 * steps + eps, updates=UPDATES, total=TOTAL, **columns
    )
    records = [{"epoch": epoch + 1, "loss": loss} for epoch, loss in enumerate(losses)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    written = {"versions": {"advtf": "0"}, "config": {"eps": eps, **config}}
    (folder / "config.json").write_text(json.dumps(written))
    return str(folder)
