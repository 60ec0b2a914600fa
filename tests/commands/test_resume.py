"""A training that dies at any point continues with the bits of one that did not; real kills: test_main."""

import signal
from pathlib import Path

import numpy as np
import pytest
from helpers.resume import RUNTIME, Crash, attempt, crashing
from helpers.run import epoch_values, snapshot_bits

from advtf.data import sets as data
from advtf.errors import UsageError
from advtf.storage import files as atomic
from advtf.training.callbacks import Snapshots, WeightStatistics
from advtf.training.checkpoint import Checkpoint, CheckpointFolder, TrainingInterrupted
from advtf.training.logs import TensorBoard
from advtf.training.run import build_trainer
from advtf.training.settings import TrainConfig

# Everything that could lose its place: momentum, per-step schedules, augmentation, restarts, rate drops.
SGD = dict(
    model="mlp", width=1, optimizer="sgd", nesterov=True, weight_decay=1e-3, lr=0.05, lr_sched="step",
    augment=True, schedule_unit="step", reset_optimizer=True, attack_steps=2, epochs=4, steps_per_epoch=5,
    batch_size=32, periods=(2,), seed=7,
)  # fmt: skip
BATCH_NORM = dict(
    model="resnet18", width=1, attack_steps=1, epochs=2, steps_per_epoch=3, batch_size=16, periods=(), lr=0.01
)


def assert_same_run(run, reference):
    assert epoch_values(run.metrics) == epoch_values(reference.metrics)
    assert snapshot_bits(run.snapshots) == snapshot_bits(reference.snapshots)
    ends = [CheckpointFolder(r.checkpoints).load_newest()[0] for r in (run, reference)]
    for group in ends[1]:
        assert [a.tobytes() for a in ends[0][group]] == [a.tobytes() for a in ends[1][group]], group


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return attempt(tmp_path_factory.mktemp("reference") / "run", SGD, minutes=10).run


def of_a_checkpoint(_, target):
    """Whether a file is renamed to the name of a checkpoint."""
    return Path(target).name.startswith("step-")


def test_death_at_every_stage_changes_no_bit(tmp_path, reference):
    stages = [  # where the process dies, and after which step the next one continues
        (CheckpointFolder, "save", 1, None),  # before there is anything to continue from
        (WeightStatistics, "on_train_batch_end", 4, 3),  # inside an epoch
        (atomic.os, "replace", 2, 4),  # while writing its second checkpoint
        (TensorBoard, "on_epoch_end", 1, 4),  # metrics.jsonl is ahead of the checkpoint
        (Checkpoint, "on_epoch_end", 2, 9),  # so are the snapshots, at the end of a period
        (Checkpoint, "on_epoch_begin", 1, 9),
        (WeightStatistics, "on_train_batch_end", 4, 12),  # in the first epoch after a restart
        (WeightStatistics, "on_train_batch_end", 6, 17),
    ]
    for owner, name, call, continues_after in stages:
        counts = of_a_checkpoint if name == "replace" else None
        with crashing(owner, name, call, counts=counts), pytest.raises(Crash):
            attempt(tmp_path / "run", SGD)
        newest = CheckpointFolder(tmp_path / "run" / "checkpoints").load_newest()
        assert (newest and newest[1]["step"]) == continues_after, (owner, name)
    last = attempt(tmp_path / "run", SGD)
    assert last.reports == ["Continuing after step 17 of 20."]
    assert_same_run(last.run, reference)
    bits = snapshot_bits(last.run.snapshots)
    assert attempt(tmp_path / "run", SGD).reports == ["Continuing after step 20 of 20."]  # nothing left to do
    assert snapshot_bits(last.run.snapshots) == bits
    assert_same_run(last.run, reference)


def test_a_truncated_checkpoint_falls_back_and_repeats_what_is_lost(tmp_path, reference):
    with crashing(WeightStatistics, "on_train_batch_end", 17), pytest.raises(Crash):
        attempt(tmp_path / "run", SGD, minutes=10)  # epochs 1, 2, 3 are logged; checkpoints of 2 and 3 kept
    older, newest = CheckpointFolder(tmp_path / "run" / "checkpoints").paths()
    assert (older.name, newest.name) == ("step-0000000010.npz", "step-0000000015.npz")
    newest.write_bytes(newest.read_bytes()[:-1000])
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"epoch": 4, "st')  # torn by the kill
    last = attempt(tmp_path / "run", SGD)
    assert newest.name in last.reports[0] and "Falling back" in last.reports[0]
    assert last.reports[1:] == ["Continuing after step 10 of 20."]
    assert_same_run(last.run, reference)


def test_when_no_checkpoint_can_be_read_nothing_is_lost(tmp_path, reference):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "step-0000000005.npz").write_bytes(b"damaged")
    (tmp_path / "run" / "metrics.jsonl").write_text('{"epoch": 1}\n')
    with pytest.raises(UsageError, match="one readable checkpoint is required"):
        attempt(tmp_path / "run", SGD)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == '{"epoch": 1}\n'


@pytest.mark.parametrize(
    ("owner", "call", "saved"),
    [
        pytest.param(WeightStatistics, 7, "saved at step 7", marks=pytest.mark.slow),
        (WeightStatistics, 10, "saved at step 10"),  # the last step of an epoch: its validation comes first
        pytest.param(Snapshots, 4, "saved at step 20", marks=pytest.mark.slow),  # while the last epoch ends
    ],
)
def test_a_signal_stops_after_saving(tmp_path, reference, owner, call, saved):
    name = "on_epoch_end" if owner is Snapshots else "on_train_batch_end"
    with (
        crashing(owner, name, call, lambda: signal.raise_signal(signal.SIGTERM)),
        pytest.raises(TrainingInterrupted, match=saved) as stopped,
    ):
        attempt(tmp_path / "run", SGD, minutes=10)
    assert stopped.value.signal == signal.SIGTERM
    assert_same_run(attempt(tmp_path / "run", SGD).run, reference)


@pytest.mark.slow
def test_batch_norm_and_adam_resume_with_the_same_bits(tmp_path):
    expected = attempt(tmp_path / "whole", BATCH_NORM).run
    with crashing(WeightStatistics, "on_train_batch_end", 5), pytest.raises(Crash):
        attempt(tmp_path / "run", BATCH_NORM)
    resumed = attempt(tmp_path / "run", BATCH_NORM)
    assert resumed.reports == ["Continuing after step 4 of 6."]
    assert_same_run(resumed.run, expected)
    with np.load(resumed.run.snapshots / "last.npz") as archive:
        moving = [archive[name] for name in archive.files if "moving_mean" in name]
    assert moving and all(np.abs(array).max() > 0 for array in moving)


def test_settings_that_do_not_fit_the_data_are_refused_before_a_model_is_built():
    digits = data.load("digits", val_fraction=0.1)
    for settings in (dict(batch_size=2000), dict(steps_per_epoch=21)):
        with pytest.raises(UsageError, match=f"Received: {next(iter(settings))}="):
            build_trainer(TrainConfig.of(settings), digits, RUNTIME)
