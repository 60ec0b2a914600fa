"""The files of `advtf.report` among those of a run or an export: how they are called and recognised.

A page can be made again from the other files, so that it is replaced and removed with them; a file of the
same name that somebody else has written never is.
"""

from pathlib import Path

REPORT = "report.html"  # in the directory of a run
MODEL_CARD = "model_card.html"  # in an export
SIGN = (  # what such a page begins with
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="generator" content="advtf.report '
)


def is_report(path: Path) -> bool:
    """Tells whether a file is a page that `advtf.report` has written."""
    try:
        with open(path, "rb") as file:
            return not path.is_symlink() and file.read(len(SIGN)) == SIGN.encode()
    except OSError:
        return False
