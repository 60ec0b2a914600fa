"""How messages are worded: numbers and nouns, names that may be meant, texts that are quoted."""

import pytest

from advtf.errors import alternatives, nearest, quantity, show_text


@pytest.mark.parametrize(
    ("number", "noun", "worded"),
    [
        (1, "image", "1 image"),
        (0, "step", "0 steps"),
        (1000, "test image", "1,000 test images"),
        (2, "class", "2 classes"),
        (1, "class", "1 class"),
        (2.5, "epoch", "2.5 epochs"),
    ],
)
def test_a_number_agrees_with_its_noun(number, noun, worded):
    assert quantity(number, noun) == worded


@pytest.mark.parametrize(("names", "worded"), [(["a"], "a"), (["a", "b"], "a or b"), ("abc", "a, b or c")])
def test_alternatives_end_with_or(names, worded):
    assert alternatives(names) == worded


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet-18", " Did you mean 'resnet18'?"),
        ("LeNet", " Did you mean 'lenet'?"),
        ("lenet", ""),  # nothing is wrong with the name itself
        ("transformer", ""),
        (3, ""),
    ],
)
def test_the_nearest_name_is_a_hint(name, hint):
    assert nearest(name, ["lenet", "resnet18"]) == hint


def test_a_hint_for_a_flag():
    assert nearest("batchsize", ["batch_size"], mark="--") == " Did you mean --batch_size?"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("", "''"),
        (" x", "' x'"),
        ("a\nb", r"'a\nb'"),
        ("ε", "ε"),
        (0.5, "0.5"),
        ("x" * 200, "x" * 80 + "… (200 characters)"),
    ],
)
def test_a_text_is_quoted_so_that_nothing_in_it_is_invisible(value, shown):
    assert show_text(value) == shown
