"""Panels of figures as they are when they are written, and the data of their lines."""

import numpy as np

from advtf.figures import style


def drawn_panels(monkeypatch, module):
    """Keeps the panels of every sheet that `module` draws."""
    seen, original = [], module.sheet

    class Recording:
        def __init__(self, *args, **kwargs):
            self.sheet = original(*args, **kwargs)

        def __enter__(self):
            seen.append(self.sheet.__enter__())
            return seen[-1]

        def __exit__(self, *error):
            return self.sheet.__exit__(*error)

    monkeypatch.setattr(module, "sheet", Recording)
    return seen


def drawn_figure(monkeypatch, draw):
    """The figure that `draw` makes, as it is when it would be written."""
    kept = []
    monkeypatch.setattr(style, "write_atomically", lambda path, write: kept.append(path))
    figures, original = [], style.Figure

    def figure(*arguments, **settings):
        figures.append(original(*arguments, **settings))
        return figures[-1]

    monkeypatch.setattr(style, "Figure", figure)
    draw()
    assert kept
    return figures[-1]


def lines(axes):
    """Data of the lines drawn in a panel."""
    return [np.stack([line.get_xdata(), line.get_ydata()]) for line in axes.get_lines()]


def heading(figure):
    """The heading of a figure as one text."""
    return " ".join(text.get_text() for text in figure.texts).replace("\u00a0", " ")


def legend_labels(figure):
    """The labels in the legend of a figure."""
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]
