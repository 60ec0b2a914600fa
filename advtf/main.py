"""Trains a robust image classifier, measures it on the test set and exports it.

python -m advtf.main                                          embedded digits, under a minute on a CPU
python -m advtf.main --dataset=cifar10 --eps_sched=cosine     the ResNet18 recipe of Liu et al. 2020
python -m advtf.main --recipe=liu2020/mnist_lenet_cosine      an experiment of a paper; --recipe=list: all
python -m advtf.main --out_dir=runs/x --resume                continue a killed run
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from absl import flags

from advtf.classifiers import manifest
from advtf.classifiers.manifest import require_saved_model
from advtf.data.registry import require_available, require_known, require_place
from advtf.settings import commands
from advtf.training.cluster import Cluster, speaking, together
from advtf.training.directory import TrainingDirectory
from advtf.training.memory import gains_from_threads, require_training_memory
from advtf.training.settings import RunOptions, TrainConfig, describe, presets_help

# A resumed run keeps the options that it was started with unless they are given anew, except for these.
NOT_KEPT = ("out_dir", "resume", "overwrite", "verbose")


def main(argv: list[str]) -> None:
    """Plans a run, trains, measures and exports.

    Exits with 2 for a mistake, 1 for a training that failed, 128 + n when signal n stopped it.
    """
    del argv
    given = commands.given_flags(flags.FLAGS, TrainConfig)
    given_options = commands.given_flags(flags.FLAGS, RunOptions)
    options = RunOptions.of(given_options)
    config = None if options.resume and options.out_dir else TrainConfig.of(given)
    cluster = Cluster.of(config, options.out_dir) if config else None
    if config:
        require_training_memory(config, options)
        require_known(config.dataset, options.data_dir)
        for teacher in config.teachers:
            require_saved_model(teacher, "teachers")
    if cluster and not cluster.chief:
        run = TrainingDirectory(Path(options.out_dir))  # the chief decides whether it is free
    else:
        run = TrainingDirectory.choose(
            options.out_dir,
            f"runs/{config.run_name}" if config else "",
            resume=options.resume,
            overwrite=options.overwrite,
            taken=lambda path: not options.export_dir and manifest.holds_files(manifest.EXPORTS / path.name),
        )
    if options.resume:
        config, options = _stored(run, given, given_options)
        if run.state() == "finished":
            print(f"{run.path} is finished; its results are in {run.results}.")
            return
        run.require_undamaged()
        require_training_memory(config, options)
        cluster = Cluster.of(config, options.out_dir)
    if not cluster or cluster.chief:
        run = run.exporting(
            options.export_dir,
            config.exported,
            typed="export_dir" in given_options,
            resume=options.resume,
            overwrite=options.overwrite,
        )
    lines = describe(config, given)
    if options.resume:
        lines["given"] = f"now {', '.join(given) or 'nothing'}; all settings as {run.config} has them"
    lines |= {"output": f"{run.path}, exports in {run.exports}"}
    began = time.monotonic()
    with speaking(cluster), run.tell_how_to_continue():
        wanted = config.batch_size, config.val_fraction, config.train_examples
        require_available(config.dataset, options.data_dir, *wanted)
        require_place(config.dataset, options.data_dir, options.images)
        print(commands.plan_table(lines), flush=True)
        if cluster:
            print(f"{'workers':<10}waiting for {', '.join(cluster.addresses)}", flush=True)
        _train_and_finish(config, options, run, cluster)
        print(f"\nFinished in {_duration(time.monotonic() - began)}.")


def _train_and_finish(config, options, run, cluster):
    from advtf import runtime  # everything above answers before TensorFlow starts

    devices = runtime.start(
        config.precision,
        config.jit,
        config.strategy,
        options.verbose,
        deterministic=config.deterministic,
        parallel_operations=_in_parallel(config, options, run),
    )
    print(f"{'device':<10}{devices.device}", flush=True)

    from advtf.data import sets as images
    from advtf.training.checkpoint import TrainingInterrupted
    from advtf.training.checks import NonFiniteLoss
    from advtf.training.results import finish
    from advtf.training.run import build_trainer, train

    with together(cluster):
        if cluster:
            cluster.agree("settings", _common(config, options, run))
        data = images.load(
            config.dataset,
            options.data_dir,
            config.val_fraction,
            config.image_size,
            config.order,
            options.images,
            config.train_examples,
        )
        print(f"{'images':<10}{_describe_images(data)}", flush=True)
        trainer = build_trainer(config, data, devices)  # refuses what does not fit before anything is written
        if cluster:
            cluster.agree("numbers of images", data.counts)
        held = run.locked(resume=options.resume, overwrite=options.overwrite)
        with held if devices.chief else contextlib.nullcontext():
            if devices.chief:
                _begin(config, options, run, data, runtime.threads())
            if cluster:
                cluster.wait_for_chief("begun")  # it has emptied the directory of an old run
            try:
                train(trainer, config, options, run, data, devices)
                if devices.chief:
                    finish(config, run, data)
                if cluster:
                    cluster.wait_for_chief("finished")
            except TrainingInterrupted as stopped:
                print(f"{stopped}. Continue with: {run.resume_command}")
                sys.exit(128 + (stopped.signal or signal.SIGTERM))  # no number: another worker got the signal
            except NonFiniteLoss as error:
                print(f"error: {error}", file=sys.stderr)
                sys.exit(1)


def _in_parallel(config, options, run):
    """Returns whether several cores share an operation: as the run began, or else where that is faster."""
    if "TF_NUM_INTRAOP_THREADS" in os.environ:
        return True  # TensorFlow takes their number from there
    if options.resume:
        threads = run.read_config().get("threads")
        return not isinstance(threads, dict) or threads.get("intra_op") != 1
    return gains_from_threads(config)


def _begin(config, options, run, data, threads):
    if not options.resume:
        more = {"image_counts": data.counts, "threads": threads}
        run.write_config(config, options, exports=run.way_to_exports(), **more)
        return
    run.identify(exports=run.way_to_exports())
    earlier = run.read_config().get("threads")
    if earlier not in (None, threads):
        print(f"{'threads':<10}{threads}, begun with {earlier}: the last digits of the training will differ")


def _common(config, options, run):
    """Returns what all workers must have in common: the settings, but for paths that are a machine's own."""
    chosen = {name: value for name, value in options.to_json().items() if name not in ("data_dir", "verbose")}
    return config.to_json() | chosen | {"out_dir": str(run.path.absolute())}


def _stored(run, given, given_options):
    """Returns the settings and the options that a run continues with.

    The settings given beside --resume must not contradict those that the run was started with.
    """
    config = run.stored(TrainConfig, "config")
    config.require_same(given, "run")
    earlier = run.stored(RunOptions, "options").to_json()
    kept = {name: value for name, value in earlier.items() if name not in NOT_KEPT}
    return config, RunOptions.of(kept | given_options)


def _describe_images(data):
    shape = "×".join(map(str, data.input_shape))
    held_out = f"{len(data.validation):,} validation, " if data.validation else ""
    return (
        f"{len(data.train):,} train, {held_out}{len(data.test):,} test, {shape}, {data.num_classes} classes"
    )


def _duration(seconds):
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


if __name__ == "__main__":
    commands.run_command(main, TrainConfig, RunOptions, epilogue=presets_help, recipes=True)
