"""The site builds without a warning, loads nothing from elsewhere, and lists every flag and public name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import advtf

ROOT = Path(__file__).parents[2]
pytest.importorskip("mkdocs", reason="the site needs the extra docs")
pytest.importorskip("mkdocstrings_handlers.python", reason="the site needs the extra docs")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_nothing_is_loaded_from_another_server(site):
    loads = re.compile(
        r"<(?:script|img|iframe|source)[^>]*\ssrc=[\"']?(?:https?:)?//|"
        r"<link(?=[^>]*rel=[\"']?(?:stylesheet|preconnect|icon))[^>]*href=[\"']?(?:https?:)?//|"
        r"url\([\"']?https?://"
    )
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    for page in [*pages, *site.glob("assets/*.css")]:
        assert not (found := loads.search(page.read_text())), f"{page}: {found}"


def test_every_public_name_is_in_the_reference(site):
    page = (site / "reference" / "api.html").read_text()
    headings = re.findall(r"<h3 [^>]*class=\"doc doc-heading\".*?</h3>", page, flags=re.DOTALL)
    shown = {re.search(r"advtf\.\w+", re.sub(r"<[^>]+>", "", heading))[0] for heading in headings}
    assert shown == {f"advtf.{name}" for name in advtf.__all__}


@pytest.mark.parametrize("command", ["main", "evaluate", "analyze", "convert", "report"])
def test_every_flag_is_in_the_reference(site, command):
    done = subprocess.run(
        [sys.executable, "-m", f"advtf.{command}", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    page = (site / "reference" / "flags.html").read_text()
    flags = re.findall(r"^  (--\S+)", done.stdout, flags=re.MULTILINE)
    assert flags and all(f"<code>{flag}</code>" in page for flag in flags)
