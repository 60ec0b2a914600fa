"""Writes one HTML page about runs: what was trained, the errors with their warnings, curves, studies.

python -m advtf.report --run=runs/digits-lenet-cosine-seed0              writes report.html in that folder
python -m advtf.report --run=runs/a,runs/b --out=comparison.html         one page that compares them
python -m advtf.report --run=saved_models/digits-lenet-cosine-seed0/last                 its model card
python -m advtf.report --run=saved_models/x/last,runs/evaluate-x-last    the card with an evaluation

A page is made from the files of the folders alone. It needs no network and opens from disk.
"""

from absl import flags

from advtf.reports import settings
from advtf.reports.settings import ReportOptions
from advtf.settings import commands


def main(argv: list[str]) -> None:
    """Writes the page; exits with 2 for a mistake."""
    del argv
    options = ReportOptions.of(commands.given_flags(flags.FLAGS, ReportOptions))
    folders, page = settings.plan(options)

    from advtf.reports.write import write  # Matplotlib takes a second

    for problem in write(folders, page):
        print(f"warning: {problem}")
    print(f"Wrote {page}")


if __name__ == "__main__":
    commands.run_command(main, ReportOptions)
