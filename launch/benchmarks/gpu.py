"""One command for a machine with a GPU: are the numbers right, and what does everything cost?

    python -m launch.benchmarks.gpu --data_dir=...
    python -m launch.benchmarks.gpu --parts=check --networks=lenet,resnet18
    python -m launch.benchmarks.gpu --device=cpu --tiny

A mode is a compiler (graph or XLA) with a precision (float32, TF32 or bfloat16, as ``--precision`` of a
training). TF32 is compiled by XLA only, as a training requires it.

check           logits, input gradients, adversarial examples, the first training step and validation of small
                batches in every mode, against float64 on the CPU; the bounds are those of
                `launch.common.equal_numbers`
step            a training step, PGD-10 and FGSM-N, in every mode: seconds after warm-up, seconds of the first
                call, which traces and compiles, and the peak of the device's memory
epoch           epochs of CIFAR-10 with ResNet18 w=8 and all that a training does: augmentation, validation
                attack, checkpoints, TensorBoard. Without ``--data_dir`` the images are generated.
autoattack      the standard AutoAttack on test images, seconds by component with all tracing and compiling;
                attacked is the classifier of the epoch, or the export that ``--model`` names
deterministic   two trainings with ``--deterministic`` must end with the same bits

Every part of every network and mode runs in a process of its own, so that one that runs out of memory, or
crashes, leaves the others as they are. A row compares with float32 without XLA on the same device, round by
round, but not in turn, as the processes follow each other. What is finished is kept in ``<out>/gpu.json`` and
not repeated; ``--overwrite`` begins anew. The exit code is 1 where numbers are wrong or something failed.
"""

import argparse
import contextlib
import datetime
import hashlib
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from advtf.errors import UsageError, one_of
from advtf.runtime import Runtime, start
from advtf.settings.commands import exit_on_usage_error
from advtf.training.settings import RunOptions, TrainConfig
from launch.common.arguments import parser
from launch.common.benchmark import DIFFERENCE, Comparison, Result, machine, versions_of
from launch.common.timing import seconds_of

PARTS = ("check", "step", "epoch", "autoattack", "deterministic")
NETWORKS = {
    "lenet": {"model": "lenet", "width": 16},
    "resnet18": {"model": "resnet18", "width": 8},
    "preact_resnet18": {"model": "preact_resnet18", "width": 16},
    "wide_resnet": {"model": "wide_resnet", "width": 10, "depth": 34},
}
ADVERSARIES = {"pgd": "PGD-{steps}", "fgsm_n": "FGSM-N"}
SIZES = {  # option -> default, value with --tiny, help
    "rounds": (5, 2, "timed rounds of a step"),
    "round_seconds": (1.0, 0.0, "a round has as many steps as fill this time, at least one"),
    "batch_size": (128, 4, "images of a step"),
    "attack_steps": (10, 2, "of PGD"),
    "check_images": (16, 4, "images whose numbers are checked"),
    "width": (0, 1, "of all networks; 0: their own"),
    "train_images": (50_000, 16, "generated images to train on"),
    "test_images": (10_000, 8, "generated images to test on"),
    "epochs": (2, 1, "of the epoch part; the first one compiles"),
    "autoattack_images": (1000, 4, "test images that AutoAttack is run on"),
    "iterations": (100, 2, "of APGD and FAB; the standard is 100"),
    "queries": (5000, 4, "of Square; the standard is 5000"),
}
FINISHED = ("done", "out of memory", "unavailable")  # what is not tried again
GIB = 2**30
LARGE, SMALL = 1e9, 1e-12  # stand for a difference that is no number, and for none at all


@dataclass(frozen=True)
class Mode:
    """How a training step is computed."""

    compiler: str
    precision: str

    def __str__(self) -> str:
        return f"{self.compiler}-{self.precision}"

    @property
    def label(self) -> str:
        """For tables and figures."""
        return f"{'XLA' if self.compiler == 'xla' else 'graph'}, {self.precision}"

    def start(self) -> Runtime:
        """Starts TensorFlow as a training in this mode does.

        Raises:
            Unavailable: the machine does not have the mode.
        """
        runtime = start(self.precision, jit_of(self.compiler))
        if self.precision == "tf32" and not runtime.tf32:
            raise Unavailable("there is no GPU with TF32 (NVIDIA Ampere or later)")
        return runtime


MODES = {
    str(mode): mode
    for mode in (
        Mode("graph", "float32"),
        Mode("graph", "bfloat16"),
        Mode("xla", "float32"),
        Mode("xla", "tf32"),
        Mode("xla", "bfloat16"),
    )
}


class Unavailable(Exception):
    """The machine cannot do this, which is no failure."""


def jit_of(compiler: str) -> str:
    """Returns the value of ``--jit`` for a compiler."""
    return {"graph": "off", "xla": "on"}[compiler]


# What is measured: each function returns JSON values, and is called in a process of its own.


def check(chosen: argparse.Namespace, network: str) -> dict:
    """Compares every mode of a network with float64; returns differences and what is wrong, by mode."""
    from launch.common.equal_numbers import Reference, bounds_of, computed_in, differences, exceeded

    config = training_of(chosen, network, batch_size=chosen.check_images)
    reference, found = Reference(config, random_batch(network, chosen.check_images)), {}
    for name in chosen.modes:

        def compared(mode=MODES[name]):
            apart = differences(reference, computed_in(mode.start(), reference))
            numbers = {name: value if math.isfinite(value) else None for name, value in apart.items()}
            bounds = bounds_of(mode.precision)
            return {"differences": numbers, "bounds": bounds, "wrong": exceeded(apart, mode.precision)}

        found[name] = guarded(compared)
    return {"modes": found}


def step(chosen: argparse.Namespace, network: str, mode: str) -> dict:
    """Times the training step of a network in a mode; returns the rounds by adversary."""
    import tensorflow as tf

    runtime, found = MODES[mode].start(), {}
    from advtf.training.run import build_trainer

    for adversary in ADVERSARIES:
        config = training_of(chosen, network, adversary=adversary)
        data = random_batch(network, chosen.batch_size)
        reset_peak()
        trainer = build_trainer(config, data, runtime)
        trainer.make_train_function()
        batch = tf.data.Dataset.from_tensors((data.train.images, data.train.labels))
        batches = iter(batch.repeat())

        def seconds_of_steps(count, trainer=trainer, batches=batches):
            began = time.perf_counter()
            for _ in range(count):
                logs = trainer.train_function(batches)
            loss = float(logs["loss"])  # waits for the device
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss of the step is {loss}")
            return time.perf_counter() - began

        with runtime.training():
            first, warm = seconds_of_steps(1), seconds_of_steps(2) / 2
            count = max(1, math.ceil(chosen.round_seconds / warm))
            rounds = [seconds_of_steps(count) / count for _ in range(chosen.rounds)]
        found[adversary] = {"first_call_seconds": first, "steps_per_round": count, "seconds": rounds}
        found[adversary] |= {"peak_bytes": peak_bytes(), "loss": float(trainer._loss_tracker.result())}
    return {"adversaries": found}


def epoch(chosen: argparse.Namespace, mode: str) -> dict:
    """Trains ResNet18 on CIFAR-10, or on images like it, as `advtf.main` does; exports the classifier."""
    runtime = MODES[mode].start()
    from advtf.classifiers.export import export_classifier
    from advtf.storage import jsonl
    from advtf.training.callbacks import load_snapshot
    from advtf.training.directory import TrainingDirectory
    from advtf.training.run import build_classifier, build_trainer, train

    data = cifar10(chosen)
    given = {"precision": MODES[mode].precision, "jit": jit_of(MODES[mode].compiler), "epochs": chosen.epochs}
    config = training_of(chosen, "resnet18", augment=True, val_fraction=0.02, **given)
    trainer = build_trainer(config, data, runtime)
    reset_peak()
    with tempfile.TemporaryDirectory() as folder:
        run = TrainingDirectory(Path(folder))
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
            total = seconds_of(lambda: train(trainer, config, RunOptions.of({}), run, data, runtime))
        records = jsonl.read(run.metrics)
        classifier = build_classifier(config, data)
        load_snapshot(run.snapshots / "last.npz", classifier)
    sample = data.test.images[:8] / np.float32(255)
    export_classifier(classifier, exported(chosen, mode), sample=sample, overwrite=True)
    return {
        "images": f"CIFAR-10 of {chosen.data_dir}" if chosen.data_dir else "generated",
        "train_images": len(data.train),
        "validation_images": len(data.validation),
        "epochs": [{name: record.get(name) for name in KEPT} for record in records],
        "total_seconds": total,
        "peak_bytes": peak_bytes(),
    }


KEPT = ("epoch", "seconds", "images_per_second", "loss", "val_clean_accuracy", "val_robust_accuracy")


def autoattack(chosen: argparse.Namespace, compiler: str) -> dict:
    """Runs the standard AutoAttack; returns errors and seconds by component."""
    start(jit=jit_of(compiler))
    from advtf.classifiers.classifier import as_classifier
    from advtf.evaluation.engine import evaluate_classifier
    from advtf.evaluation.settings import AttackSettings

    own = [exported(chosen, mode) for mode in MODES if exported(chosen, mode).exists()]
    if not (chosen.model or own):
        raise UsageError("autoattack needs a classifier. Received: no --model, and no part epoch before it.")
    path, test = chosen.model or own[0], cifar10(chosen).test.select(slice(chosen.autoattack_images))
    x, y = (test.images / np.float32(255)).astype(np.float32), test.labels
    classifier = as_classifier(path, x, y)
    sizes = {"steps": chosen.iterations, "queries": chosen.queries, "eps": 8 / 255}
    settings = AttackSettings(**sizes, jit=jit_of(compiler))
    reset_peak()
    found = None

    def attacked():
        nonlocal found
        found = evaluate_classifier(classifier, x, y, settings, checks=False)

    seconds = seconds_of(attacked)
    result = found.attacks["autoattack"]
    components = {
        part.name: {"attacked": part.attacked, "broken": part.broken, "seconds": part.spent.seconds}
        for part in result.components
    }
    return {
        "classifier": chosen.model or f"of the part epoch, {Path(path).name}",
        "images": f"CIFAR-10 of {chosen.data_dir}" if chosen.data_dir else "generated",
        "examples": len(x),
        "clean_error": found.clean_error,
        "robust_error": result.error,
        "seconds": seconds,
        "components": components,
        "peak_bytes": peak_bytes(),
    }


def deterministic(chosen: argparse.Namespace, network: str) -> dict:
    """Trains twice with deterministic operations, and says whether the bits are the same."""
    runtime = start(deterministic=True)
    from advtf.data.batches import evaluation_batches, training_batches
    from advtf.training.run import build_trainer

    config = training_of(chosen, network)
    data = random_batch(network, 3 * chosen.batch_size)

    def digest():
        trainer = build_trainer(config, data, runtime)
        batches = training_batches(data.train, config.batch_size, seed=0, augment=True, total_steps=3)
        with runtime.training():
            trainer.fit(batches, epochs=1, steps_per_epoch=3, shuffle=False, verbose=0)
        measured = trainer.evaluate(evaluation_batches(data.train, config.batch_size), verbose=0)
        bits = hashlib.sha256(np.asarray(measured, np.float32).tobytes())
        for weight in trainer.classifier.get_weights():
            bits.update(weight.tobytes())
        return bits.hexdigest()

    digests = [digest(), digest()]
    return {"sha256": digests, "wrong": [] if digests[0] == digests[1] else ["the bits of two trainings"]}


# What they share.


def training_of(chosen: argparse.Namespace, network: str, **given: Any) -> TrainConfig:
    """Returns the settings of a training: those of CIFAR-10 with SGD, a constant ε and PGD."""
    width = {"width": chosen.width} if chosen.width else {}
    depth = {"depth": 10} if chosen.tiny and network == "wide_resnet" else {}
    fixed = {"dataset": "cifar10", "eps_sched": "constant", "eps": 8 / 255, "epochs": 1, "augment": False}
    fixed |= {"optimizer": "sgd", "lr": 0.05, "weight_decay": 5e-4, "val_fraction": 0.0}
    sizes = {"batch_size": chosen.batch_size, "attack_steps": chosen.attack_steps}
    return TrainConfig.of(fixed | sizes | NETWORKS[network] | width | depth | given)


def random_batch(network: str, count: int):
    """Returns a data set of `count` random images of the network's shape."""
    from advtf.data.sets import from_arrays

    rng, shape = np.random.default_rng(0), (28, 28, 1) if network == "lenet" else (32, 32, 3)
    x, y = rng.random((count, *shape), np.float32), rng.integers(0, 10, count).astype(np.int32)
    return from_arrays(x, y, x[:1], y[:1], num_classes=10)


def cifar10(chosen: argparse.Namespace):
    """Returns CIFAR-10 with validation images, or generated images of its shape: a pattern and noise each.

    The patterns are stronger than ε, so that a classifier learns to be robust and AutoAttack has work.
    """
    from advtf.data.sets import from_arrays, load

    if chosen.data_dir:
        return load("cifar10", chosen.data_dir, 0.02)
    rng = np.random.default_rng(0)
    patterns = np.kron(rng.choice([-30.0, 30.0], (10, 4, 4, 3)), np.ones((1, 8, 8, 1)))

    def images(count):
        labels = rng.integers(0, 10, count).astype(np.int32)
        noise = rng.integers(88, 168, (count, 32, 32, 3), np.uint8)
        return (noise + patterns[labels]).astype(np.uint8), labels

    parts = *images(chosen.train_images), *images(chosen.test_images)
    return from_arrays(*parts, val_fraction=max(0.02, 2 / chosen.train_images), num_classes=10)


def exported(chosen: argparse.Namespace, mode: str) -> Path:
    """Returns where the part epoch exports its classifier."""
    return Path(chosen.out) / "gpu_classifiers" / mode


def reset_peak() -> None:
    """Begins to measure the peak of the device's memory anew."""
    import tensorflow as tf

    for gpu in tf.config.list_logical_devices("GPU"):
        tf.config.experimental.reset_memory_stats(gpu.name.removeprefix("/device:"))


def peak_bytes() -> int | None:
    """Returns the largest number of bytes in use on the first GPU since `reset_peak`; None without one."""
    import tensorflow as tf

    names = [gpu.name.removeprefix("/device:") for gpu in tf.config.list_logical_devices("GPU")]
    return int(tf.config.experimental.get_memory_info(names[0])["peak"]) if names else None


# How it is run.


def guarded(measure: Callable[[], dict]) -> dict:
    """Returns what `measure` returns with the status "done", or what became of it."""
    try:
        return {"status": "done"} | measure()
    except Unavailable as error:
        return {"status": "unavailable", "error": str(error)}
    except Exception as error:  # whatever one part does, the others go on; the status says so
        text = f"{type(error).__name__}: {error}"
        status = "out of memory" if is_out_of_memory(text) else "failed"
        return {"status": status, "error": text.strip()[:2000]}


def is_out_of_memory(message: str) -> bool:
    """Tells whether the message of an error says that memory ran out."""
    words = ("ResourceExhausted", "RESOURCE_EXHAUSTED", "out of memory", "OUT_OF_MEMORY", "MemoryError")
    return any(word in message for word in words)


def units(chosen: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """Yields what is run in a process each: a part with the arguments of its function."""
    compilers = dict.fromkeys(MODES[mode].compiler for mode in chosen.modes)
    fast = MODES[chosen.modes[-1]].compiler  # XLA where it is measured at all
    arguments = {
        "check": [(network,) for network in chosen.networks],
        "step": [(network, mode) for network in chosen.networks for mode in chosen.modes],
        "epoch": [
            (mode,)
            for mode in chosen.modes
            if MODES[mode].compiler == fast and MODES[mode].precision != "tf32"
        ],
        "autoattack": [(compiler,) for compiler in compilers],
        "deterministic": [(network,) for network in chosen.networks],
    }
    for part in PARTS:  # deterministic operations last, as they stay with a process
        if part in chosen.parts:
            yield from ((part, *each) for each in arguments[part])


def run_unit(chosen: argparse.Namespace, unit: tuple[str, ...]) -> dict:
    """Runs a unit in this process."""
    function = {each.__name__: each for each in (check, step, epoch, autoattack, deterministic)}[unit[0]]
    return guarded(lambda: function(chosen, *unit[1:]))


def run_in_child(given: Sequence[str], unit: tuple[str, ...], minutes: float) -> dict:
    """Runs a unit in a process of its own, and says what became of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "unit.json"
        command = [sys.executable, "-m", "launch.benchmarks.gpu", *given]
        command += [f"--unit={' '.join(unit)}", f"--unit_result={path}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60 * minutes)
        except subprocess.TimeoutExpired:
            return {"status": "failed", "error": f"not finished after {minutes:g} minutes"}
        if path.exists():
            return json.loads(path.read_text())
        last = done.stderr.strip().splitlines()[-5:]
        status = "out of memory" if is_out_of_memory(done.stderr) or done.returncode == -9 else "failed"
        return {"status": status, "error": "\n".join([f"exit code {done.returncode}", *last])}


def is_wrong(record: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong in the record of a unit, or of a mode of a check: failures and wrong numbers."""
    if record["status"] == "failed":
        return [record["error"].splitlines()[0]]
    found = list(record.get("wrong", ()))
    for mode, each in record.get("modes", {}).items():
        found += [f"{mode}: {wrong}" for wrong in is_wrong(each)]
    return found


# What is written and printed.


def rows(found: Mapping[str, dict], chosen: argparse.Namespace) -> Iterator[Comparison]:
    """Yields the rows of the suite's format: numbers against bounds, costs against graph and float32."""
    for network in chosen.networks:
        for mode, record in found.get(f"check {network}", {}).get("modes", {}).items():
            if "differences" in record:
                bounds = record["bounds"]
                apart = {
                    name: LARGE if value is None else value for name, value in record["differences"].items()
                }
                worst = max(apart, key=lambda name: apart[name] / bounds[name])
                yield Comparison(
                    what=f"equal numbers, {network}: {worst}",
                    ours=f"advtf, {MODES[mode].label}",
                    against="the bound around float64 on the CPU",
                    pairs=((max(apart[worst], SMALL), bounds[worst]),),
                    unit=DIFFERENCE,
                    goal=1.0,
                    facts={name: record[name] for name in ("differences", "bounds", "wrong")},
                )
        yield from _step_rows(found, chosen, network)
    epochs = {key: each for key, each in found.items() if key.startswith("epoch ") and "epochs" in each}
    for key, record in epochs.items():
        base = next(iter(epochs.values()))["epochs"][-1]["seconds"]
        yield Comparison(
            what=f"an epoch of CIFAR-10 ({record['images']} images), resnet18",
            ours=f"advtf, {MODES[key.split()[1]].label}",
            against=f"advtf, {MODES[next(iter(epochs)).split()[1]].label}",
            pairs=((record["epochs"][-1]["seconds"], base),),
            work=f"{record['train_images']} images",
            facts=record,
        )
    suites = {key: each for key, each in found.items() if key.startswith("autoattack ") and "seconds" in each}
    for key, record in suites.items():
        yield Comparison(
            what="AutoAttack, resnet18",
            ours=f"advtf, {key.split()[1]}, compiling included",
            against=f"advtf, {next(iter(suites)).split()[1]}, compiling included",
            pairs=((record["seconds"], next(iter(suites.values()))["seconds"]),),
            work=f"{record['examples']} images",
            facts=record,
        )


def _step_rows(found, chosen, network):
    records = {mode: found.get(f"step {network} {mode}", {}).get("adversaries", {}) for mode in chosen.modes}
    for adversary, label in ADVERSARIES.items():
        timed = {mode: record[adversary] for mode, record in records.items() if adversary in record}
        for mode, record in timed.items():
            base = next(iter(timed))
            yield Comparison(
                what=f"{label.format(steps=chosen.attack_steps)} step of {network}",
                ours=f"advtf, {MODES[mode].label}",
                against=f"advtf, {MODES[base].label}",
                pairs=tuple(zip(record["seconds"], timed[base]["seconds"], strict=True)),
                work=f"{chosen.batch_size} images",
                facts={name: value for name, value in record.items() if name != "seconds"},
            )


def table(found: Mapping[str, dict], chosen: argparse.Namespace) -> str:
    """Returns all that was found, for people: one line for each part, network, mode and adversary."""
    lines = []
    for key, record in found.items():
        if record["status"] == "done":
            lines += LINES[key.split()[0]](key, record, chosen)
        else:
            lines.append((key, f"{record['status']}: {_first(record)}"))
    return "\n".join(f"{key:<42}{text}" for key, text in lines)


def _first(record):
    return record["error"].splitlines()[0][:120]


def _check_lines(key, record, chosen):
    for mode, each in record["modes"].items():
        if each["status"] == "done":
            yield f"{key} {mode}", "WRONG: " + ", ".join(each["wrong"]) if each["wrong"] else "right"
        else:
            yield f"{key} {mode}", f"{each['status']}: {_first(each)}"


def _step_lines(key, record, chosen):
    for adversary, each in record["adversaries"].items():
        seconds = each["seconds"]
        middle, spread = statistics.median(seconds), f"{min(seconds):.4g} to {max(seconds):.4g}"
        rate, first = chosen.batch_size / middle, each["first_call_seconds"]
        costs = f"{middle:.4g} s ({spread}), {rate:,.0f} images/s, first call {first:.1f} s{_peak(each)}"
        yield f"{key} {adversary}", costs


def _epoch_lines(key, record, chosen):
    first, last = (record["epochs"][at]["seconds"] for at in (0, -1))
    rate = f"{record['train_images'] / last:,.0f} images/s"
    yield key, f"{last:.1f} s, {rate}, first epoch {first:.1f} s, {record['images']} images{_peak(record)}"


def _autoattack_lines(key, record, chosen):
    costs = ", ".join(f"{name} {each['seconds']:.1f}" for name, each in record["components"].items())
    images = f"{record['examples']} {record['images']} images"
    error = f"robust error {record['robust_error']:.1f} %"
    yield key, f"{record['seconds']:.1f} s for {images} ({costs}), {error}{_peak(record)}"


def _deterministic_lines(key, record, chosen):
    yield key, "DIFFERENT bits" if record["wrong"] else "the same bits twice"


LINES = {
    "check": _check_lines,
    "step": _step_lines,
    "epoch": _epoch_lines,
    "autoattack": _autoattack_lines,
    "deterministic": _deterministic_lines,
}


def _peak(record):
    return f", peak {record['peak_bytes'] / GIB:.2f} GiB" if record["peak_bytes"] else ""


def result_of(chosen: argparse.Namespace, computer: Mapping, found: Mapping[str, dict]) -> Result:
    """Returns the file of everything: its rows, and the units themselves for the next call."""
    return Result(
        entry="gpu",
        about="Training and evaluation in every mode: are the numbers right, and what do they cost?",
        command=shlex.join(["python", "-m", "launch.benchmarks.gpu", *_words(chosen)]),
        date=datetime.date.today().isoformat(),
        versions=versions_of(),
        machine=computer,
        settings=settings_of(chosen),
        comparisons=tuple(rows(found, chosen)),
        facts={"units": found},
    )


def settings_of(chosen: argparse.Namespace) -> dict:
    """Returns what results depend on; parts, networks and modes may be added by later calls."""
    images = "CIFAR-10" if chosen.data_dir else "generated"
    fixed = {"device": chosen.device, "tiny": chosen.tiny, "images": images}
    return fixed | {name: getattr(chosen, name) for name in SIZES}


def _words(chosen):
    words = [f"--device={chosen.device}"] + (["--tiny"] if chosen.tiny else [])
    sizes = {name: sizes[1 if chosen.tiny else 0] for name, sizes in SIZES.items()}
    return words + [
        f"--{name}={getattr(chosen, name)}" for name in SIZES if getattr(chosen, name) != sizes[name]
    ]


def finished_units(chosen: argparse.Namespace, computer: Mapping) -> dict[str, dict]:
    """Returns the units that an earlier call has finished, without any that failed.

    Raises:
        UsageError: they are of another machine, other versions or other sizes.
    """
    path = Path(chosen.out) / "gpu.json"
    if chosen.overwrite or not path.exists():
        return {}
    earlier = Result.read(path)
    now = {"machine": computer, "versions": versions_of(), "settings": settings_of(chosen)}
    for what, value in now.items():
        if getattr(earlier, what) != value:
            raise UsageError(
                f"{path} must hold results of this machine, these versions and these sizes. "
                f"Received: other {what}. Give another --out, or --overwrite."
            )
    kept = earlier.facts.get("units", {}).items()
    return {key: record for key, record in kept if record["status"] in FINISHED and not is_wrong(record)}


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """Returns the checked options.

    Raises:
        UsageError: an unknown part, network or mode.
    """
    made = parser(__doc__)
    made.add_argument("--parts", default=",".join(PARTS), help="with commas [%(default)s]")
    made.add_argument("--networks", default=",".join(NETWORKS), help="with commas [%(default)s]")
    made.add_argument("--modes", help=f"with commas; default: {','.join(MODES)}; on a CPU those without XLA")
    made.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="[%(default)s]")
    made.add_argument("--tiny", action="store_true", help="tiny sizes: does everything run?")
    made.add_argument("--data_dir", help="folder of prepared data sets; without it images are generated")
    made.add_argument("--model", help="export that AutoAttack attacks; default: that of the part epoch")
    made.add_argument("--out", default="runs/benchmarks", help="folder of gpu.json [%(default)s]")
    made.add_argument("--overwrite", action="store_true", help="begin anew")
    made.add_argument(
        "--minutes", type=float, default=30, help="after which a part is given up [%(default)s]"
    )
    made.add_argument("--in_process", action="store_true", help="run everything in this process, to debug it")
    for name, (default, _, description) in SIZES.items():
        made.add_argument(f"--{name}", type=type(default), help=f"{description} [{default}]")
    made.add_argument("--unit", help=argparse.SUPPRESS)
    made.add_argument("--unit_result", help=argparse.SUPPRESS)
    chosen = made.parse_args(given)
    chosen.modes = chosen.modes or ",".join(
        mode for mode in MODES if chosen.device == "gpu" or MODES[mode].compiler == "graph"
    )
    for option, known in (("parts", PARTS), ("networks", NETWORKS), ("modes", MODES)):
        named = getattr(chosen, option).split(",")
        setattr(
            chosen,
            option,
            [name for name in known if name in [one_of(option, each, known) for each in named]],
        )
    for name, (default, tiny, _) in SIZES.items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, tiny if chosen.tiny else default)
    return chosen


def compare(options: SimpleNamespace) -> Iterator[Comparison]:
    """Yields the rows of the suite, once everything has been run.

    Raises:
        UsageError: there is no GPU; and after the last row, numbers are wrong or something failed.
    """
    given = [f"--{name}={getattr(options, name)}" for name in ("device", "parts", "networks", "rounds")]
    given += ["--tiny"] * options.tiny + [f"--data_dir={options.data_dir}"] * bool(options.data_dir)
    with tempfile.TemporaryDirectory() as folder:
        given.append(f"--out={folder}")
        chosen = arguments(given)
        hide_gpus(chosen)
        require_device(chosen, machine())
        found = {" ".join(unit): run_in_child(given, unit, chosen.minutes) for unit in units(chosen)}
    print(table(found, chosen))
    yield from rows(found, chosen)
    wrong = all_wrong(found)
    if wrong:
        raise UsageError(f"all numbers must be right. Received: {'; '.join(wrong)}.")


def hide_gpus(chosen: argparse.Namespace) -> None:
    """Hides the GPUs from this process, and from those it starts, if the CPU is asked for."""
    if chosen.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


def require_device(chosen: argparse.Namespace, computer: Mapping[str, Any]) -> None:
    """Refuses to go on without a GPU, unless the CPU is asked for.

    Raises:
        UsageError: there is none.
    """
    if chosen.device == "gpu" and not computer["gpus"]:
        raise UsageError(
            "this benchmark needs a GPU that TensorFlow sees. Received: none. Install advtf with the extra "
            "cuda, or try it with --device=cpu --tiny."
        )


def all_wrong(found: Mapping[str, dict]) -> list[str]:
    """Returns all that failed or is wrong, with the unit."""
    return [f"{key}: {each}" for key, record in found.items() for each in is_wrong(record)]


def main(given: Sequence[str] | None = None) -> int:
    """Runs everything that is not finished; returns the exit code."""
    given = list(sys.argv[1:] if given is None else given)
    chosen = arguments(given)
    hide_gpus(chosen)
    if chosen.unit:
        Path(chosen.unit_result).write_text(json.dumps(run_unit(chosen, tuple(chosen.unit.split()))))
        return 0
    computer = machine() if chosen.in_process else _machine_of_a_child()
    require_device(chosen, computer)
    found = finished_units(chosen, computer)
    for unit in units(chosen):
        key = " ".join(unit)
        if key in found:
            print(f"{key}: finished earlier", flush=True)
            continue
        print(f"{key} …", flush=True)
        record = run_unit(chosen, unit) if chosen.in_process else run_in_child(given, unit, chosen.minutes)
        found[key] = record
        result_of(chosen, computer, found).write(Path(chosen.out))
    print(f"\n{', '.join(computer['gpus']) or computer['cpu']}\n{table(found, chosen)}")
    print(f"\nWrote {Path(chosen.out) / 'gpu.json'}")
    wrong = all_wrong(found)
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    return 1 if wrong else 0


def _machine_of_a_child():
    # TensorFlow in this process would hold memory of the GPU that the parts need.
    code = "import json; from launch.common.benchmark import machine; print(json.dumps(machine()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    with exit_on_usage_error():
        sys.exit(main())
