"""Trains a robust image classifier, measures it on the test set and exports it.

python -m advtf.main                                          embedded digits, under a minute on a CPU
python -m advtf.main --dataset=cifar10 --eps_sched=cosine     the ResNet18 recipe of Liu et al. 2020
python -m advtf.main --flagfile=flags/liu2020/mnist/lenet/cosine.flags
python -m advtf.main --out_dir=runs/x --resume                continue a killed run
"""

import dataclasses
import sys
import time

from absl import flags

from advtf.classifiers import export_folder
from advtf.classifiers.manifest import require_saved_model
from advtf.data.registry import require_known
from advtf.settings import commands
from advtf.settings.threat import format_epsilon
from advtf.storage.files import write_json
from advtf.storage.provenance import provenance
from advtf.training.directory import TrainingDirectory
from advtf.training.settings import RunOptions, TrainConfig, describe, period_epochs, presets_help

# Of a resumed run, unless given anew.
KEPT_OPTIONS = ("data_dir", "export_dir", "dynamics_steps", "input_every")


def main(argv: list[str]) -> None:
    """Plans a run, trains, measures and exports.

    Exits with 2 for a mistake, 1 for a training that failed, 128 + n when signal n stopped it.
    """
    del argv
    given = commands.given_flags(flags.FLAGS, TrainConfig)
    options = RunOptions.of(commands.given_flags(flags.FLAGS, RunOptions))
    config = None if options.resume and options.out_dir else TrainConfig.of(given)
    if config:
        require_known(config.dataset, options.data_dir)
        for teacher in config.teachers:
            require_saved_model(teacher)
    run = TrainingDirectory.choose(
        options.out_dir,
        f"runs/{config.run_name}" if config else "",
        resume=options.resume,
        overwrite=options.overwrite,
        taken=lambda path: (
            not options.export_dir and export_folder.holds_files(export_folder.DEFAULT / path.name)
        ),
    )
    if options.resume:
        config, options = _stored(run, given, options)
        if run.state() == "finished":
            print(f"{run.path} is finished; its results are in {run.results}.")
            return
    replace = options.resume or options.overwrite
    exports = export_folder.choose(options.export_dir, run.path.name, replace=replace)
    lines = describe(config, given) | {"output": f"{run.path}, exports in {exports}"}
    print(commands.plan_table(lines), flush=True)
    began = time.monotonic()
    with run.tell_how_to_continue():
        _train_and_finish(config, options, run, exports)
    print(f"\nFinished in {_duration(time.monotonic() - began)}.")


def _train_and_finish(config, options, run, exports):
    from advtf import runtime  # everything above answers before TensorFlow starts

    devices = runtime.start(config.precision, config.jit, config.strategy, options.verbose)
    print(f"{'device':<10}{devices.device}", flush=True)

    from advtf.data import sets as images
    from advtf.training.callbacks import NonFiniteLoss
    from advtf.training.checkpoint import TrainingInterrupted
    from advtf.training.run import build_trainer, train

    data = images.load(config.dataset, options.data_dir, config.val_fraction, config.image_size)
    print(f"{'images':<10}{_describe_images(data)}", flush=True)
    trainer = build_trainer(config, data, devices)  # refuses what does not fit before anything is written
    export_folder.create(exports)
    with run.locked(resume=options.resume, overwrite=options.overwrite):
        if not options.resume:
            run.write_config(config, options)
        try:
            train(trainer, config, options, run, data, devices.rewrite_bfloat16)
            _finish(config, run, exports, data)
        except TrainingInterrupted as stopped:
            print(f"{stopped}. Continue with: {run.resume_command}")
            sys.exit(128 + stopped.signal)
        except NonFiniteLoss as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)


def _finish(config, run, exports, data):
    from advtf.training import results

    print("\nAttacking the test set …", flush=True)
    classifiers = results.load_classifiers(config, run, data)
    measured = results.measure(classifiers, config, data)
    records = results.summarise(measured, classifiers, config.select_on)
    gaps = results.robust_overfitting(records)
    results.write_examples(classifiers["last"][0], config, data, run)
    figures = results.draw_figures(config, run)
    exported = results.export_all(classifiers, records, config, data, exports)
    print(_table(records, gaps, config))
    written = [run.metrics, run.results, *figures, *(exports / name for name in exported)]
    print("\nWrote " + "\n      ".join(map(str, written)))
    attack = {"name": f"PGD-{config.attack_steps}", "norm": config.norm, "epsilon": config.eps}
    attack |= {"relative_step": config.relative_step, "restarts": config.eval_restarts, "seed": config.seed}
    summary = {
        "attack": attack,
        "results": records,
        "robust_overfitting": gaps,
        "exports": {name: str(p) for name, p in exported.items()},
    }
    write_json(run.results, provenance() | summary)


def _stored(run, given, options):
    """Reads a run's configuration; the flags given beside --resume must not contradict it."""
    record = run.read_config()
    config = TrainConfig.from_json(record.get("config"))
    if "periods" in given:
        given = {**given, "periods": period_epochs(given["periods"], config.epochs)}
    config.require_same(given, "run")
    earlier = RunOptions.from_json(record.get("options"))
    keep = {name: getattr(options, name) or getattr(earlier, name) for name in KEPT_OPTIONS}
    return config, dataclasses.replace(options, **keep)


def _describe_images(data):
    shape = "×".join(map(str, data.input_shape))
    held_out = f"{len(data.validation):,} validation, " if data.validation else ""
    return (
        f"{len(data.train):,} train, {held_out}{len(data.test):,} test, {shape}, {data.num_classes} classes"
    )


def _table(records, gaps, config):
    examples = next(iter(records.values()))["examples"]
    attack = f"PGD-{config.attack_steps}" + (f"×{config.eval_restarts}" if config.eval_restarts > 1 else "")
    epsilon = format_epsilon(config.eps)
    rows = [f"\nError in % of {examples:,} test images ({attack}, {config.norm}, ε {epsilon})"]
    rows.append(f"{'':<22}{'clean':>8}{attack:>10}")
    for name, record in records.items():
        label = f"{name} (epoch {record['epoch']})" if record["epoch"] else name
        chosen = "  chosen on the test images" if record.get("selected_on") == "test" else ""
        rows.append(f"{label:<22}{record['clean_error']:>8.2f}{record['pgd_error']:>10.2f}{chosen}")
    for name, gap in gaps.items():
        rows.append(f"robust overfitting of {name}: {gap:.2f} points (its error less that of the best)")
    return "\n".join(rows)


def _duration(seconds):
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


if __name__ == "__main__":
    commands.run_command(main, TrainConfig, RunOptions, epilogue=presets_help)
