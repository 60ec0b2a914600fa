"""Capacity: LeNet of width 16, 8, 4, 2 on MNIST with three ε schedules (Liu et al. 2020, Fig. 14).

    python launch/mnist_capacity.py --seeds 0 1 2
    python launch/mnist_capacity.py --widths 4 2 -- --epochs=8 --lr=1e-3 --schedule_unit=step

The settings are those of flags/mnist_lenet_w<w>_<schedule>.flags; what follows `--` comes after them and goes
to `python -m advtf.main`. Runs land in runs/capacity-w<w>-<schedule>-seed<seed>; a finished one is not
repeated and a killed one is continued. Afterwards runs/capacity.png shows the test errors, drawn from their
files, and `python -m advtf.analyze` counts dead units and dead layers, to runs/capacity-units.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

from series import command, finished

from advtf.figures.capacity import capacity

FLAGS = Path(__file__).parent.parent / "flags"
SCHEDULES = ("constant", "cosine", "linear")
WIDTHS = (16, 8, 4, 2)


def flagfile(width, schedule):
    """Returns the experiment of the paper, as a flag."""
    name = "mnist_lenet" if width == 16 else f"mnist_lenet_w{width}"
    return f"--flagfile={FLAGS / f'{name}_{schedule}.flags'}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", choices=WIDTHS, default=WIDTHS)
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=SCHEDULES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--unit_examples", type=int, default=2000, help="training images for dead units")
    own, given = split(sys.argv[1:])
    chosen = parser.parse_args(own)
    runs = []
    for width, schedule, seed in itertools.product(chosen.widths, chosen.schedules, chosen.seeds):
        name = f"runs/capacity-w{width}-{schedule}-seed{seed}"
        runs.append(finished(name, [flagfile(width, schedule), f"--seed={seed}", *given]))
    print(capacity([run.path for run in runs], "runs/capacity.png"))
    exports = [json.loads(run.evaluation.read_text())["exports"]["last"] for run in runs]
    models, examples = f"--model={','.join(exports)}", f"--num_examples={chosen.unit_examples}"
    data = [argument for argument in given if argument.startswith("--data_dir=")]
    place = ["--out_dir=runs/capacity-units", "--overwrite"]
    command("advtf.analyze", "--study=dynamics", models, examples, *place, *data)


def split(arguments):
    """Returns the arguments before and after `--`."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place + 1 :]


if __name__ == "__main__":
    main()
