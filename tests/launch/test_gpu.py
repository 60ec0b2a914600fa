"""The command for a machine with a GPU: its checks find wrong numbers, and it goes on after failures."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from helpers import command

from advtf.attacks import norms
from advtf.errors import UsageError
from advtf.runtime import start
from launch.benchmarks import gpu
from launch.common.benchmark import Result
from launch.common.equal_numbers import BOUNDS, Reference, computed_in, differences, exceeded

TINY = ["--device=cpu", "--tiny", "--in_process"]
DONE = {"differences": {"logits": 1e-6}, "bounds": {"logits": 1e-4}, "wrong": [], "status": "done"}
RIGHT = {"status": "done", "modes": {"graph-float32": DONE}}
WRONG = {
    "status": "done",
    "modes": {"graph-float32": DONE | {"differences": {"logits": None}, "wrong": ["logits"]}},
}
STEP = {
    "first_call_seconds": 3.0,
    "steps_per_round": 1,
    "seconds": [2.0, 4.0],
    "peak_bytes": None,
    "loss": 1.0,
}
STEPS = {"status": "done", "adversaries": {"pgd": STEP, "fgsm_n": STEP | {"seconds": [1.0, 1.0]}}}
OUT_OF_MEMORY = {"status": "out of memory", "error": "ResourceExhaustedError: OOM when allocating"}


@pytest.fixture(scope="module")
def reference():
    chosen = gpu.arguments(TINY)
    return Reference(gpu.training_of(chosen, "lenet", batch_size=4), gpu.random_batch("lenet", 4))


@pytest.fixture(scope="module")
def computed(reference):
    return computed_in(start("float32", "off"), reference)


def test_the_reference_has_the_gradient_of_its_loss(reference):
    direction = np.sign(reference.gradient)
    up, down = (reference.mean_loss(reference.x + size * direction) for size in (1e-6, -1e-6))
    expected = np.abs(reference.gradient).sum() / len(reference.x)
    np.testing.assert_allclose((up - down) / 2e-6, expected, rtol=1e-5)
    assert min(reference.gains) > 0


def test_a_step_of_the_reference_goes_down_its_loss_and_leaves_the_weights(reference):
    loss, weights = reference.step(reference.x)
    config, size = reference.config, 0.0
    for before, after in zip(reference.weights, weights, strict=True):
        gradient = (before - after) / config.lr - config.weight_decay * before
        size += np.sum(gradient**2)
    moved = dataclasses.replace(config, lr=1e-4, weight_decay=0.0)
    again = Reference(moved, reference.data)
    again._model.set_weights(again.step(again.x)[1])
    np.testing.assert_allclose(loss - again.mean_loss(again.x), 1e-4 * size, rtol=1e-3)
    np.testing.assert_allclose(reference.step(reference.x)[0], loss, rtol=1e-12)


def test_right_numbers_are_within_the_bounds_of_every_precision(reference, computed):
    found = differences(reference, computed)
    assert {name: exceeded(found, name) for name in BOUNDS} == {name: [] for name in BOUNDS}


GRADIENT = ["input gradient", "signs of the gradient"]
PLANTED = {
    "another sign of one gradient": (
        lambda c: {"gradient": c.gradient * np.array([-1, 1, 1, 1])[:, None, None, None]},
        "float32",
        GRADIENT,
    ),
    "gradients of other images": (
        lambda c: {"gradient": np.roll(c.gradient, 1, axis=0)},
        "bfloat16",
        GRADIENT,
    ),
    "logits of other weights": (lambda c: {"logits": 1.2 * c.logits}, "bfloat16", ["logits"]),
    "a logit that is no number": (lambda c: {"logits": c.logits * np.nan}, "bfloat16", ["logits"]),
    "twice the loss": (lambda c: {"loss": 2 * c.loss}, "bfloat16", ["loss of the step"]),
    "a rate of two thirds": (
        lambda c: {"loss": c.loss, "weights": [2 / 3 * w for w in c.weights]},
        "tf32",
        ["updated weights"],
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_errors_are_named(reference, computed, name):
    change, precision, expected = PLANTED[name]
    wrong = dataclasses.replace(computed, **change(computed))
    assert exceeded(differences(reference, wrong), precision) == expected


def test_an_attack_that_leaves_its_ball_or_does_nothing_is_named(reference, computed):
    for x_adv, expected in (
        (computed.x_adv + 0.01, "pixels outside the ball"),
        (reference.x, "gain of the attack"),
    ):
        found = differences(reference, dataclasses.replace(computed, x_adv=x_adv))
        assert all(expected in exceeded(found, precision) for precision in BOUNDS)


def test_a_mode_whose_attack_goes_down_is_wrong_and_the_next_is_not(monkeypatch, tmp_path, capsys):
    signs, sign = iter([-1.0, 1.0]), [1.0]
    linf, started = norms.NORMS["linf"], gpu.Mode.start

    def start_planted(mode):
        sign[0] = next(signs)
        return started(mode)

    def steepest(gradient, length):
        return sign[0] * linf.steepest_step(gradient, length)

    monkeypatch.setitem(norms.NORMS, "linf", dataclasses.replace(linf, steepest_step=steepest))
    monkeypatch.setattr(gpu.Mode, "start", start_planted)
    given = ["--parts=check", "--networks=lenet", f"--out={tmp_path}", "--modes=graph-float32,graph-bfloat16"]
    assert gpu.main([*TINY, *given]) == 1
    wrong = capsys.readouterr().err
    assert "graph-float32: gain of the attack" in wrong and "graph-bfloat16" not in wrong
    units = json.loads((tmp_path / "gpu.json").read_text())["facts"]["units"]
    assert not units["check lenet"]["modes"]["graph-bfloat16"]["wrong"]


@pytest.fixture
def units(monkeypatch):
    """What the parts return in place of computing; those that were asked for."""
    records, asked = {}, []

    def run_unit(chosen, unit):
        asked.append(" ".join(unit))
        return records[" ".join(unit)]

    monkeypatch.setattr(gpu, "run_unit", run_unit)
    return records, asked


def test_what_is_finished_is_kept_and_what_failed_is_tried_again(units, tmp_path, capsys):
    records, asked = units
    records |= {
        "check lenet": WRONG,
        "step lenet graph-float32": STEPS,
        "step lenet graph-bfloat16": OUT_OF_MEMORY,
    }
    given = [*TINY, "--parts=check,step", "--networks=lenet", f"--out={tmp_path}"]
    assert gpu.main(given) == 1
    assert asked == list(records)
    assert "check lenet: graph-float32: logits" in capsys.readouterr().err
    records["check lenet"], asked[:] = RIGHT, []
    assert gpu.main(given) == 0  # memory that ran out is a result
    assert asked == ["check lenet"]
    assert "out of memory" in capsys.readouterr().out
    rows = Result.read(tmp_path / "gpu.json").comparisons
    assert [row.ratio for row in rows] == [pytest.approx(0.01), 1.0, 1.0]
    assert rows[1].medians == (3.0, 3.0) and rows[0].reached
    with pytest.raises(UsageError, match="other settings"):
        gpu.main([*given, "--batch_size=8"])


def test_a_cost_is_compared_with_float32_without_xla(units, tmp_path):
    records, _ = units
    fast = {"status": "done", "adversaries": {"pgd": STEP | {"seconds": [1.0, 1.0]}}}
    records |= {"step lenet graph-float32": STEPS, "step lenet xla-tf32": fast}
    given = ["--parts=step", "--networks=lenet", "--modes=xla-tf32,graph-float32", f"--out={tmp_path}"]
    assert gpu.main([*TINY, *given]) == 0
    row = next(row for row in Result.read(tmp_path / "gpu.json").comparisons if "tf32" in row.ours)
    assert row.ratios == (0.5, 0.25) and "graph, float32" in row.against


def test_errors_of_a_part_become_its_status():
    def fails(error):
        def measure():
            raise error

        return gpu.guarded(measure)["status"]

    assert fails(tf.errors.ResourceExhaustedError(None, None, "no memory")) == "out of memory"
    assert fails(tf.errors.InternalError(None, None, "RESOURCE_EXHAUSTED: allocating")) == "out of memory"
    assert fails(gpu.Unavailable("no such GPU")) == "unavailable"
    assert fails(ValueError("a mistake")) == "failed"


def test_a_gpu_is_required_unless_the_cpu_is_asked_for(monkeypatch):
    monkeypatch.setattr(gpu, "machine", lambda: {"gpus": [], "cpu": "some"})
    with pytest.raises(UsageError, match=r"needs a GPU.*--device=cpu"):
        gpu.main(["--in_process"])
    with pytest.raises(UsageError, match="parts"):
        gpu.arguments(["--parts=chek"])


@pytest.mark.slow
def test_the_whole_command_on_a_cpu(tmp_path):
    given = ["--device=cpu", "--tiny", f"--out={tmp_path}", "--train_images=120"]
    given += [
        "--networks=lenet,resnet18,wide_resnet",
        "--modes=graph-float32,graph-bfloat16,xla-float32,xla-tf32",
    ]
    code, printed, error = command.finish(
        command.start("launch.benchmarks.gpu", tmp_path, *given), minutes=30
    )
    assert code == 0, printed + error
    units = json.loads((tmp_path / "gpu.json").read_text())["facts"]["units"]
    assert units["step lenet xla-tf32"]["status"] == "unavailable"
    counts = {part: sum(key.startswith(part) for key in units) for part in gpu.PARTS}
    assert counts == {"check": 3, "step": 12, "epoch": 1, "autoattack": 2, "deterministic": 3}
    assert units["autoattack xla"]["robust_error"] == units["autoattack graph"]["robust_error"]
