"""Trainings by two workers against one process: objectives with second derivatives and of two views."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import command

from advtf.processes import thread_settings
from launch.cluster.here import _free_ports, _task

CASES = {
    "igr": {"objective": "igr"},
    "cure": {"objective": "cure"},
    "gradalign": {"objective": "gradalign"},
    "logitalign": {"objective": "logitalign"},
    "consistency": {"objective": "consistency", "augment": True},
    "trades": {"objective": "trades"},
}
TRAIN = """
import json, sys, tempfile
from pathlib import Path
import numpy as np
from advtf.runtime import start
name, strategy, cases = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
runtime = start(strategy=strategy)
from advtf.data import sets as images
from advtf.training import run as whole
from advtf.training.cluster import Cluster, together
from advtf.training.directory import TrainingDirectory
from advtf.training.settings import RunOptions, TrainConfig

digits = images.load("digits", val_fraction=0.1)
with together(Cluster.of_process() if strategy == "multi_worker" else None):
    for case, settings in cases.items():
        config = TrainConfig.of({
            "model": "wide_resnet", "depth": 10, "width": 1, "activation": "softplus", "norm": "l2",
            "eps": 0.5, "epochs": 2, "steps_per_epoch": 2, "batch_size": 32, "attack_steps": 2,
            "optimizer": "sgd", "lr": 0.01, "eps_sched": "constant", "periods": "none",
            "strategy": strategy, **settings,
        })
        trainer = whole.build_trainer(config, digits, runtime)
        run = TrainingDirectory(Path(tempfile.mkdtemp()))
        whole.train(trainer, config, RunOptions(), run, digits, runtime, report=lambda line: None)
        if runtime.chief:
            np.savez(f"{name}-{case}.npz", *[weight.numpy() for weight in trainer.classifier.weights])
            (Path(f"{name}-{case}.jsonl")).write_text(run.metrics.read_text())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(2)]

    def start(name, strategy, own):
        return subprocess.Popen(
            [sys.executable, "-c", TRAIN, name, strategy, json.dumps(CASES)],
            cwd=folder,
            env=command.environment() | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    two = [start("two", "multi_worker", thread_settings(1) | _task(addresses, index)) for index in (0, 1)]
    threads = thread_settings(1)
    for process in (*two, start("one", "none", threads)):
        code, _, error = command.finish(process, minutes=20)  # six trainings on a busy machine
        assert code == 0, error[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_workers_have_the_numbers_of_one_process(folder, case):
    with np.load(folder / f"one-{case}.npz") as one, np.load(folder / f"two-{case}.npz") as two:
        assert len(one.files) > 30
        for name in one.files:
            # Strengths of 5 to 100 amplify the rounding of float32: 2.4e-6 was measured with cure.
            np.testing.assert_allclose(two[name], one[name], rtol=5e-6, atol=5e-6)
    lines = [(folder / f"{name}-{case}.jsonl").read_text().splitlines() for name in ("one", "two")]
    for expected, found in zip(*([json.loads(line) for line in each] for each in lines), strict=True):
        for measured in ("clean_accuracy", "robust_accuracy", "val_clean_accuracy", "val_robust_accuracy"):
            assert found[measured] == expected[measured]
        for measured in ("loss", "val_loss", "gradient_norm"):
            assert found[measured] == pytest.approx(expected[measured], rel=2e-6)
