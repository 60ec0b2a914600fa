"""The frame of a page: head, heading, contents, main part; nothing in it leads out of the file.

The policy in the head forbids the browser to load anything, whatever the content may be.
"""

from importlib import resources

from advtf import __version__
from advtf.reports.html import Html, element, join
from advtf.storage.report_files import SIGN

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render(*, title: str, kind: str, lead: object, contents: list[tuple[str, str]], main: Html) -> str:
    """Returns a whole page.

    Args:
        title: the heading.
        kind: what it is about, in a word; it stands above the heading.
        lead: one sentence below it.
        contents: anchors and headings that lead to the parts of `main`.
        main: everything else.
    """
    links = [element("li", element("a", heading, href=f"#{anchor}")) for anchor, heading in contents]
    style = resources.files("advtf.reports").joinpath("page.css").read_text(encoding="utf-8")
    head = join(
        Html(f'{SIGN}{__version__}">\n'),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} – {kind}"),
        element("style", Html(style)),
        Html("\n</head>\n"),
    )
    header = element(
        "header",
        element("p", kind, class_="kind"),
        element("h1", title),
        element("p", lead, class_="lead") if lead else None,
        element("nav", element("ul", links), aria_label="Contents"),
    )
    footer = element(
        "footer",
        f"Written by advtf.report, advtf {__version__}, from the files of the runs alone. Errors are "
        "percentages, with ± one standard error over the images; ε is in units of pixels in [0, 1].",
    )
    return join(head, element("body", header, element("main", main), footer), Html("\n</html>\n"))
