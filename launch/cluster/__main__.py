"""Starts the workers of one training, and starts them again where one was killed.

python -m launch.cluster --workers=2 -- --out_dir=runs/two --dataset=mnist      two processes on this machine
python -m launch.cluster --workers=8 --gpus=1 --cluster=HOST:6379 -- FLAGS      on a Ray cluster

What follows `--` are the flags of ``python -m advtf.main``; ``--strategy=multi_worker`` is added. The folder
of `--out_dir` must be one that all workers share. Without `--cluster` the workers are processes of this
machine, and 127.0.0.1 is the only network that is used. Ctrl-C and SIGTERM are passed on: the training saves
a checkpoint and stops; a second Ctrl-C ends it at once.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from advtf.errors import UsageError, require_whole
from advtf.settings import commands
from advtf.training.settings import RunOptions, TrainConfig
from launch.cluster import here
from launch.cluster.attempts import STRATEGY, Order
from launch.common import arguments


def main() -> None:
    """Reads the command line and runs the workers; exits with the code of the training."""
    parser = arguments.parser(__doc__)
    parser.add_argument("--workers", type=int, required=True, metavar="N", help="how many workers there are")
    parser.add_argument(
        "--threads", type=int, default=1, metavar="T", help="threads of each worker [%(default)s]"
    )
    parser.add_argument(
        "--max_failures",
        type=int,
        default=0,
        metavar="K",
        help="how often all are started again, from the last checkpoint, after one was killed [%(default)s]",
    )
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="Ray cluster: host:port, auto for that of this machine, local to start one",
    )
    parser.add_argument(
        "--gpus",
        type=int,
        default=0,
        metavar="G",
        help="GPUs that each worker asks the cluster for [%(default)s]",
    )
    chosen = arguments.parse(parser)
    with commands.exit_on_usage_error():
        require_whole("workers", chosen.workers)
        require_whole("threads", chosen.threads)
        require_whole("max_failures", chosen.max_failures, 0)
        require_whole("gpus", chosen.gpus, 0)
        if chosen.gpus and not chosen.cluster:
            raise UsageError(
                f"gpus are asked of a Ray cluster. Received: gpus={chosen.gpus} without cluster. "
                "Add --cluster=ADDRESS; on one machine, advtf.main --strategy=mirrored uses all its GPUs."
            )
        order = Order(
            chosen.workers,
            chosen.threads,
            chosen.gpus,
            chosen.max_failures,
            _out_dir(chosen.flags),
            chosen.flags,
            chosen.cluster,
        )
        if not chosen.cluster:
            sys.exit(here.train(order))
        from launch.cluster import on_ray

        sys.exit(on_ray.train(chosen.cluster, order))


def _out_dir(given: Sequence[str]) -> Path:
    """Returns the folder of the run, after reading all flags, so that a mistake is told once."""
    values = flags.FlagValues()
    commands.define_flags(TrainConfig, RunOptions, flag_values=values)
    commands.parse_flags([STRATEGY, *given], values, recipes=True)
    options = RunOptions.of(commands.given_flags(values, RunOptions))
    if not options.out_dir:
        raise UsageError(
            "the workers need a folder to share. Received: no out_dir after --. Add --out_dir=DIR."
        )
    if not options.resume:
        config = TrainConfig.of(commands.given_flags(values, TrainConfig))
        if config.strategy != "multi_worker":
            raise UsageError(
                f"workers train with strategy=multi_worker. Received: strategy={config.strategy}."
            )
    return Path(options.out_dir)


if __name__ == "__main__":
    main()
