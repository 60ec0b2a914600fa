"""A page as a browser's parser would see it, and small runs for pages to be about."""

import json
from html.parser import HTMLParser

import numpy as np

from advtf.evaluation.report import EvaluationDirectory
from advtf.evaluation.run import EvaluateOptions
from advtf.evaluation.settings import AttackSettings
from advtf.storage import jsonl
from advtf.storage.files import provenance, write_json
from advtf.training.directory import TrainingDirectory
from advtf.training.settings import RunOptions, TrainConfig

EMPTY = {"meta", "img"}  # of the elements that pages have, those that have no end
SHA = "ab" * 32


class Page(HTMLParser):
    """What is on a page; a page that is not well-formed fails.

    Attributes:
        elements: (tag, attributes) of each, in order.
        headings: (level, text) of each.
        tables: by caption, the cells of each row: (text, exact values in it).
        text: all of it, but the style sheet.
    """

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.headings, self.tables, self.text = [], [], [], {}, ""
        self._row, self._cell, self._caption, self._rows = None, None, None, None
        self.feed(text)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag in EMPTY:
            return
        self.open.append(tag)
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append((int(tag[1]), ""))
        elif tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._cell = ["", []]
        elif tag == "data" and self._cell:
            self._cell[1].append(json.loads(attributes["value"]))

    def handle_startendtag(self, tag, attributes):
        assert "svg" in self.open, f"{tag} has no end"
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"{tag} ends in {self.open}"
        if tag in ("td", "th"):
            self._rows[-1].append(tuple(self._cell))
            self._cell = None
        elif tag == "caption":
            self._caption = self._title
        elif tag == "table":
            self.tables[self._caption] = self._rows[1:]

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data.replace("\u00a0", " ")
        if self.open and self.open[-1] == "caption":
            self._title = data
        if self._cell:
            self._cell[0] += data
        if any(tag in ("h1", "h2", "h3", "h4") for tag in self.open[-1:]):
            level, text = self.headings[-1]
            self.headings[-1] = level, text + data

    def ids(self):
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def of(self, tag):
        """The attributes of the elements with this tag."""
        return [attributes for name, attributes in self.elements if name == tag]


def results(select_on="validation"):
    """The evaluation.json of a training, with numbers that are easy to recognise."""
    errors = {"last": (6.963788300835649, 65.18105849582172, 6), "best": (11.977715877437323, 61.5, 5)}
    errors["ensemble"] = (8.913649025069637, 60.44568245125348, None)
    records = {
        name: {"clean_error": clean, "pgd_error": pgd, "examples": 359, "epoch": epoch}
        for name, (clean, pgd, epoch) in errors.items()
    }
    records["best"]["selected_on"] = select_on
    attack = {"name": "PGD-7", "norm": "linf", "epsilon": 8 / 255, "restarts": 2, "seed": 0}
    images = {name: {"examples": n, "sha256": SHA} for name, n in (("train", 1295), ("test", 359))}
    return provenance() | {
        "attack": attack,
        "images": {"order": "stored"} | images,
        "results": records,
        "robust_overfitting": {"last": 3.681058495821724},
        "exports": {},
    }


def training(folder, *, recorded=3, content=None, **settings):
    """A training of the data set digits that has recorded some epochs; finished if `content` is given."""
    folder.mkdir(parents=True)
    run = TrainingDirectory(folder)
    config = TrainConfig.of({"epochs": 4, "eps": 8 / 255, **settings})
    run.write_config(config, RunOptions(), image_counts={"train": 1295, "validation": 143, "test": 359})
    for epoch in range(1, recorded + 1):
        record = {"epoch": epoch, "step": 20 * epoch, "epsilon": 0.01 * epoch, "learning_rate": 0.1 / epoch}
        record |= {"loss": 2.3 / epoch, "clean_accuracy": 0.1 * epoch, "robust_accuracy": 0.0625 * epoch}
        record |= {"val_loss": 2.0 / epoch, "val_clean_accuracy": 0.1 * epoch, "val_robust_accuracy": None}
        jsonl.append(run.metrics, record)
    if content is not None:
        write_json(run.results, content)
    return run


def found(warnings=()):
    """The evaluation.json of an evaluation."""
    cost = {"forward_passes": 400, "backward_passes": 200, "seconds": 1.25, "tracing_seconds": 0.5}
    part = {"attacked": 190, "broken": 130, **cost}
    suite = {"error": 76.5, "mean_loss": None, **cost, "components": {"apgd_ce": part}, "broken": [1, 2]}
    points = ((0.0, 94.5), (8 / 255, 23.5), (16 / 255, 5.25))
    return provenance() | {
        "path": "saved_models/x/last",
        "dataset": "digits",
        "model": "x/last",
        "norm": "linf",
        "epsilon": 8 / 255,
        "seed": 0,
        "settings": {"norm": "linf", "eps": 8 / 255},
        "examples": 200,
        "images": {"examples": 200, "sha256": SHA},
        "clean": {"error": 5.5, "mean_loss": 0.31198667295626364, "wrong": [0]},
        "attacks": {
            "pgd": {"error": 71.125, "mean_loss": 1.6255, **cost, "broken": [1]},
            "autoattack": suite,
        },
        "left_out": [],
        "worst_case": {"error": 77.25, "mean_loss": 1.7, "broken": [1, 2]},
        "robust_accuracy_by_epsilon": [{"epsilon": e, "robust_accuracy": a} for e, a in points],
        "warnings": list(warnings),
    }


def evaluation(folder, content=None, weights=None):
    """An evaluation; finished if `content` is given."""
    folder.mkdir(parents=True)
    run = EvaluationDirectory(folder)
    options = EvaluateOptions(model="saved_models/x/last", dataset="digits")
    run.write_config(AttackSettings(eps=8 / 255), options, weights=weights)
    if content is not None:
        write_json(run.results, content)
    return run


def examples(path):
    """Writes the examples.npz of a training."""
    x = np.random.default_rng(0).random((8, 8, 8, 1), np.float32)
    labels = np.arange(8)
    predictions = {"clean_predictions": labels, "adversarial_predictions": (labels + 1) % 10}
    np.savez(path, clean=x, adversarial=x[::-1], labels=labels, epsilon=8 / 255, **predictions)
