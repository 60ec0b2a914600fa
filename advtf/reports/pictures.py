"""Pictures inside of a page: curves as SVG that follows the colours of the page, images as data URIs."""

import base64
import itertools
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
from PIL import Image

from advtf.errors import UsageError
from advtf.reports.html import Html, element

# Text stays text, and names of parts are the same each time, so that equal data give equal pages.
SVG = {"svg.fonttype": "none", "svg.hashsalt": "advtf"}
COLORS = {  # of the figures' style -> of the page, which has others in its dark form
    "#000000": "currentColor",
    "#ffffff": "var(--page)",
    "#dddddd": "var(--line)",
    "#595959": "var(--muted)",
    "#0072b2": "var(--blue)",
    "#d55e00": "var(--vermillion)",
}
_COLOR = re.compile("|".join(COLORS))
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FONT = re.compile(r"font-family:[^;]*;?")  # the page has a font
_XLINK = "{http://www.w3.org/1999/xlink}href"
_DESCRIPTION = ".//{http://purl.org/dc/elements/1.1/}description"


class Pictures:
    """The pictures of one page; each has names of its own for its parts."""

    def __init__(self):
        self._numbers = itertools.count(1)

    def curves(self, draw: Callable[[Path], object], *content: object) -> Html:
        """Returns a figure of `advtf.figures` as inline SVG, with its heading as title and description.

        Args:
            draw: draws the figure into a file.
            *content: what is told below it, such as a table of the values.

        Raises:
            UsageError: what it is drawn from is missing or damaged.
        """
        with tempfile.TemporaryDirectory() as folder, matplotlib.rc_context(SVG):
            file = Path(folder) / "figure.svg"
            draw(file)
            root = ElementTree.parse(file).getroot()
        return element("figure", _inline(root, f"f{next(self._numbers)}-"), _caption(content))


def image(path: Path, *content: object) -> Html:
    """Returns a PNG file as a figure; its alternative text is the heading that the file keeps.

    Args:
        path: of the file.
        *content: what is told below it.

    Raises:
        UsageError: there is no such PNG.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            text, form, size = getattr(picture, "text", {}), picture.format, picture.size
        if form != "PNG":
            raise ValueError(f"an image in the format {form}")
        coded = base64.b64encode(path.read_bytes()).decode()
    except Exception as error:  # Pillow shows damage as SyntaxError, EOFError, zlib.error and others
        raise UsageError(
            f"a figure must be a PNG file that can be read. Received: {path} ({error})."
        ) from error
    told = [text.get("Title", path.stem), text.get("Description", "")]
    alternative = ". ".join(part for part in told if part)
    shown = element(
        "img",
        src=f"data:image/png;base64,{coded}",
        alt=alternative,
        width=size[0],
        height=size[1],
    )
    return element("figure", shown, _caption(content))


def _caption(content):
    return element("figcaption", content) if any(content) else None


def _inline(root: ElementTree.Element, prefix: str) -> Html:
    """Returns a drawing of Matplotlib as an element of a page: without what only a file of its own needs."""
    description = root.findtext(_DESCRIPTION, "")
    for parent in root.iter():
        for child in list(parent):
            child.tag = child.tag.rpartition("}")[2]
            if child.tag in ("metadata", "style"):
                parent.remove(child)
    for part in root.iter():
        part.attrib = {
            name.rpartition("}")[2]: _changed(name, value, prefix) for name, value in part.attrib.items()
        }
    root.tag = "svg"
    title = root.find("title")
    title.set("id", f"{prefix}title")
    about = ElementTree.Element("desc", {"id": f"{prefix}about"})
    about.text = description
    root.insert(1, about)
    root.attrib = {"viewBox": root.get("viewBox"), "role": "img"}
    root.attrib |= {"aria-labelledby": f"{prefix}title", "aria-describedby": f"{prefix}about"}
    return Html(ElementTree.tostring(root, encoding="unicode"))


def _changed(name, value, prefix):
    if name == "id":
        return prefix + value
    if name == _XLINK and value.startswith("#"):
        return f"#{prefix}{value[1:]}"
    if name == "style":
        value = _FONT.sub("", _COLOR.sub(lambda found: COLORS[found[0]], value))
    return _REFERENCE.sub(rf"url(#{prefix}\1)", value)
