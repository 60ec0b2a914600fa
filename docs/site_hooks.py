"""Fills the pages of the site that are generated at build time, so that they cannot become stale.

A line ``<!-- flags of advtf.main -->`` becomes tables of what ``python -m advtf.main --help`` prints, and
``<!-- public names -->`` becomes one entry per public name of the package, grouped by room, for mkdocstrings.
"""

import ast
import html
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMANDS, MODULES = "commands", ("main", "evaluate", "analyze", "convert", "report")
ROOMS = ("data", "models", "attacks", "training", "classifiers", "evaluation", "landscape")

_SECTION = re.compile(r"(\w[\w ]*):")
_FLAG = re.compile(r"  (?P<name>--\S+)\s+(?P<rest>\S.*)")
_VALUES = re.compile(r"(?P<meaning>.*?)(?: \{(?P<choices>[^{}]*)\})?(?: \[(?P<default>[^\[\]]*)\])?")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replaces the markers of a page; called by MkDocs."""
    if "<!-- flags of" in markdown:
        markdown = re.sub(r"<!-- flags of advtf\.(\w+) -->", lambda m: flag_tables(m[1]), markdown)
    if "<!-- public names -->" in markdown:
        markdown = markdown.replace("<!-- public names -->", public_names())
    return markdown


def help_text(command: str) -> str:
    """Returns what ``python -m advtf.<command> --help`` prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"advtf.{command}", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "1000"},  # a line for each flag
    )
    return done.stdout


def flag_tables(command: str) -> str:
    """Returns the flags of a command as one Markdown table per section of its help.

    Raises:
        ValueError: the help has no flags, or a line that is neither a section nor a flag.
    """
    settings, _, rest = help_text(command).partition("\nAlso: ")
    lines = settings.splitlines()
    first = next((i for i, line in enumerate(lines) if _FLAG.fullmatch(line)), None)
    if first is None:
        raise ValueError(f"python -m advtf.{command} --help lists no flags.")
    out: list[str] = []
    for line in lines[first - 1 :]:
        if section := _SECTION.fullmatch(line):
            out += ["", f"### {section[1].capitalize()} {{ #{command}-{section[1].replace(' ', '-')} }}", ""]
            out += ["| Flag | Meaning | Values | Default |", "|---|---|---|---|"]
        elif flag := _FLAG.fullmatch(line):
            out.append(_row(flag["name"], flag["rest"]))
        elif line.strip():
            raise ValueError(f"a line of python -m advtf.{command} --help is not understood: {line!r}.")
    _, found, presets = rest.partition("\nPresets, ")
    if found:
        title, _, table = presets.partition("\n")
        out += ["", f"### Presets {{ #{command}-presets }}", "", f"Values {title}", "", *_preset_table(table)]
    return "\n".join(out)


def _row(name: str, rest: str) -> str:
    parts = _VALUES.fullmatch(rest)
    choices = ", ".join(f"`{choice}`" for choice in (parts["choices"] or "").split(", ") if choice)
    default = f"`{parts['default']}`" if parts["default"] and parts["default"] != "preset" else ""
    default = "preset" if parts["default"] == "preset" else default
    meaning = html.escape(parts["meaning"]).replace("|", "\\|")
    return f"| `{name}` | {meaning} | {choices} | {default} |"


def _preset_table(table: str) -> list[str]:
    rows = [line.split() for line in table.splitlines() if line.strip()]
    out = ["| Flag | " + " | ".join(f"`{name}`" for name in rows[0][1:]) + " |"]
    out.append("|---" * len(rows[0]) + "|")
    out += [f"| `--{row[0]}` | " + " | ".join(row[1:]) + " |" for row in rows[1:]]
    return out


def public_names() -> str:
    """Returns the public names of the package as mkdocstrings entries under one heading per room."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    import advtf

    rooms: dict[str, list[str]] = {}
    for name in advtf.__all__:
        module = advtf._PUBLIC[name]
        room = module.partition(".")[0]
        rooms.setdefault(COMMANDS if room in MODULES else room, []).append(name)
    order = [COMMANDS, *ROOMS]
    out: list[str] = []
    for room in sorted(rooms, key=lambda room: (order.index(room) if room in order else len(order), room)):
        out += ["", f"## {room.capitalize()}", "", _introduction(room), ""]
        for name in sorted(rooms[room], key=str.lower):
            target = f"advtf.{advtf._PUBLIC[name]}.{advtf._RENAMED.get(name, name)}"
            options = {"heading": f"advtf.{name}", "toc_label": name}
            out += [f"::: {target}", "    options:", *(f"      {k}: {v}" for k, v in options.items()), ""]
    return "\n".join(out)


def _introduction(room: str) -> str:
    path = ROOT / "advtf" / room / "__init__.py"
    text = ast.get_docstring(ast.parse(path.read_text())) if path.exists() else None
    return (text or "").partition("\n\n")[0]
