"""The picture of the architecture has every room, and imports go downwards in it."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "assets" / "architecture.svg"
COMMANDS = ("main", "evaluate", "analyze", "convert", "report")


def rooms():
    """The rooms of the picture from top to bottom."""
    labels = re.findall(r'<text class="room" x="\d+" y="([\d.]+)">([^<]+)</text>', PICTURE.read_text())
    assert labels == sorted(labels, key=lambda label: float(label[0]))
    return [name for _, label in labels for name in label.split(", ")]


def room_of(parts):
    """The room of a module, whose dotted name is given in parts."""
    return "commands" if parts[1] in COMMANDS else parts[1]


def imports():
    """Pairs of rooms of which the first imports the second, with a module where it does."""
    for path in sorted((ROOT / "advtf").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if len(parts) == 2 and parts[1] == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("advtf"):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name.startswith("advtf.")]
            for name in names:
                if name != "advtf.__version__":  # that of the package, which is no room
                    yield room_of(parts), room_of(name.split(".")), path.name


def test_every_room_is_drawn():
    modules = [path for path in (ROOT / "advtf").iterdir() if path.name not in ("__init__.py", "__pycache__")]
    assert {room_of(("advtf", path.stem)) for path in modules} == set(rooms())


def test_imports_go_downwards():
    order = {name: position for position, name in enumerate(rooms())}
    found = set(imports())
    assert len(found) > 50
    assert not [(a, b, file) for a, b, file in found if a != b and order[a] >= order[b]]
