"""Studies the loss landscape around saved classifiers: curvature, slices, dynamics, connectivity, theory.

python -m advtf.analyze --model=saved_models/digits-lenet-cosine-seed0/last --study=hessian
python -m advtf.analyze --model=saved_models/x/last --study=hessian,similarity,surface --num_examples=500
python -m advtf.analyze --model=saved_models/x/last,saved_models/y/last --study=connectivity
python -m advtf.analyze --study=dynamics --run_dirs=runs/x,runs/y
python -m advtf.analyze --study=theory
python -m advtf.analyze --out_dir=runs/analyze-x-last --resume      continue a killed analysis

Everything is measured in float32, whatever the precision of the training.
In Python, ``advtf.analyze(classifier, x, y, study="hessian", epsilon=8/255)`` does the same.
"""

import functools
import sys

from absl import flags

from advtf.data.registry import require_available
from advtf.errors import UsageError
from advtf.settings import commands
from advtf.studies import STUDIES
from advtf.studies import run as analysis_run
from advtf.studies.run import analyze
from advtf.studies.settings import AnalyzeOptions, settings_class

__all__ = ["analyze", "main"]


def main(argv: list[str]) -> None:
    """Analyzes classifiers; exits with 2 for a mistake, 130 when interrupted."""
    del argv
    given = (commands.given_flags(flags.FLAGS, cls) for cls in (settings_class(STUDIES), AnalyzeOptions))
    run, settings, options = analysis_run.plan(*given)
    if options.resume and run.is_finished(settings):
        print(f"{run.path} is finished; its results are listed in {run.results}.")
        return
    with run.tell_how_to_continue():
        if settings.dataset:
            require_available(settings.dataset, options.data_dir)
        print(analysis_run.describe(settings, run), flush=True)
        _run(run, settings, options)


def _run(run, settings, options):
    from advtf import runtime  # everything above answers before TensorFlow starts

    devices = runtime.start(jit=settings.jit, verbose=options.verbose, deterministic=settings.deterministic)
    print(f"{'device':<10}{devices.device}", flush=True)
    context = analysis_run.load(settings, options, run.path, functools.partial(print, flush=True))
    with run.locked(resume=options.resume, overwrite=options.overwrite):
        outcome = analysis_run.run_analysis(run, context, options, resume=options.resume)
    written = [run.results] if outcome.finished else []
    written += [file for files in outcome.files.values() for file in files]
    if written:
        print("\nWrote " + "\n      ".join(map(str, written)))
    if outcome.failures:
        raise UsageError("; ".join(f"{name}: {error}" for name, error in outcome.failures.items()))


sys.modules[__name__].__class__ = commands.CallableModule  # advtf.analyze is the function, too

if __name__ == "__main__":
    commands.run_command(main, settings_class(STUDIES), AnalyzeOptions)
