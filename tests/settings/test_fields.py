"""How one value is read, and how a dataclass of settings parses, completes, checks and stores its values."""

import dataclasses
import json
import math
from fractions import Fraction

import numpy as np
import pytest

from advtf.errors import UsageError
from advtf.settings import fields
from advtf.settings.fields import Settings, choice, number, numbers, real, setting, show, switch, text, whole

NAMES = {"one": 1, "three": 3}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example(Settings):
    """Settings of every kind; `twice` follows from `size`."""

    size: float = setting("numbers", real(0, 1), "a number", 0.5)
    count: int | None = setting("numbers", whole(1, 9), "a count", None)
    twice: float = setting("numbers", real(), "twice the size")
    places: tuple[float, ...] = setting("lists", numbers("numbers"), "places", ())
    kind: str = setting("names", choice(NAMES), "a name", "one")
    title: str | None = setting("names", text(), "a text", None)
    loud: bool = setting("names", switch(), "a switch", False)

    def completed(self, given):
        return {} if "twice" in given else {"twice": 2 * given["size"]}

    def check(self):
        if self.loud and self.kind == "three":
            raise UsageError("loud needs kind=one. Received: kind=three.")


# Values


@pytest.mark.parametrize("value", ["8/255", "0.03", "1e-4", ".5", "7", 0.25, 3])
def test_number_reads_decimals_and_fractions(value):
    assert number(value) == float(Fraction(value))


@pytest.mark.parametrize("value", ["", "nan", "inf", "1/0", "8/", "1/2/3", "8 over 255", True, None, [1]])
def test_number_refuses_everything_else(value):
    with pytest.raises((ValueError, TypeError, ArithmeticError)):
        number(value)


@pytest.mark.parametrize(
    ("size", "canonical"),
    [
        ("0.02", "0.02"), ("5/255", repr(5 / 255)), ("eps/4", "0.25eps"), ("0.25eps", "0.25eps"),
        ("0.5 * eps / 4", "0.125eps"), ("1/4eps", "0.25eps"), ("5e-1eps", "0.5eps"), ("eps", "1.0eps"),
        (0.05, "0.05"),
    ],
)  # fmt: skip
def test_a_step_gets_one_canonical_form_which_is_read_again(size, canonical):
    convert = fields.step_size().convert
    assert convert(size) == convert(canonical) == canonical


@pytest.mark.parametrize("size", ["0", "-eps", "eps/0", "quarter", "", "0eps", math.inf, True, None])
def test_a_step_that_is_not_positive_is_refused(size):
    with pytest.raises((ValueError, TypeError, ArithmeticError)):
        fields.step_size().convert(size)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("0.5,0.75", (0.5, 0.75)),
        ("100, 150", (100, 150)),
        ("none", ()),
        ("", ()),
        ([1.0, 2.5], (1, 2.5)),
        ("1/4", (0.25,)),
    ],
)
def test_lists_of_numbers(value, read):
    result = numbers("numbers").convert(value)
    assert result == read and [type(item) for item in result] == [type(item) for item in read]


def test_a_real_number_is_one_that_float32_can_hold():
    convert = fields.real().convert
    largest, smallest = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)
    assert (convert(largest), convert(smallest), convert("0")) == (largest, smallest, 0)
    for value in (math.nextafter(largest, math.inf), math.nextafter(smallest, 0), "1e300", 1e-300):
        with pytest.raises(ValueError):
            convert(value)


@pytest.mark.parametrize("value", ["2,1", "1,1", "-1,2", "a", "1,,2", 3, ["x"]])
def test_lists_that_are_not_increasing_numbers_are_refused(value):
    with pytest.raises((ValueError, TypeError)):
        numbers("numbers").convert(value)


@pytest.mark.parametrize(("value", "read"), [("a, b", ("a", "b")), ("none", ()), (["a"], ("a",))])
def test_lists_of_texts(value, read):
    assert fields.texts("names").convert(value) == read


@pytest.mark.parametrize("value", ["a,,b", "a,a", 3])
def test_lists_with_an_empty_or_a_repeated_text_are_refused(value):
    with pytest.raises((ValueError, TypeError)):
        fields.texts("names").convert(value)


@pytest.mark.parametrize(
    ("value", "shown"),
    [((), "none"), ((0.5, 20), "0.5,20"), (True, "true"), (None, "none"), (0.1, "0.1"), (8, "8"), ("x", "x")],
)
def test_values_are_shown_as_one_would_type_them(value, shown):
    assert show(value) == shown


# Settings


def test_flag_text_and_python_values_give_the_same_settings():
    typed = Example.of(dict(size="1/4", count="3", places="0.5,2", kind="three", loud="no", title=None))
    assert typed == Example(size=0.25, count=3, places=(0.5, 2), kind="three")
    assert (typed.twice, typed.title) == (0.5, None)
    assert Example(twice=3).twice == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(size=2), r"size must be a number in \[0, 1\] .*Received: size=2\."),
        (dict(size=None), "size must be .* Received: size=None"),
        (dict(count=10), "count must be a whole number from 1 to 9. Received: count=10"),
        (dict(count=2.0), "Received: count=2.0"),
        (dict(count=True), "Received: count=True"),
        (dict(kind="thre"), "one of one, three. Received: kind=thre. Did you mean 'three'?"),
        (dict(title=""), "title must be a non-empty text .*Received: title=''"),
        (dict(title="  "), "title must be a non-empty text"),
        (dict(title="a\x00b"), r"Received: title='a\\x00b'"),
        (dict(loud="loud"), "loud must be true or false"),
        (dict(loud=True, kind="three"), "loud needs kind=one"),
    ],
)
def test_a_bad_value_is_named(given, message):
    with pytest.raises(UsageError, match=message) as caught:
        Example(**given)
    assert "\n" not in str(caught.value)


def test_an_unknown_setting_is_named_with_the_nearest_one():
    with pytest.raises(UsageError, match=r"Received: tilte\. Did you mean 'title'\?"):
        Example.of({"tilte": "x"})


def test_a_name_that_is_registered_later_is_accepted(monkeypatch):
    monkeypatch.setitem(NAMES, "two", 2)
    assert Example(kind="two").kind == "two"


def test_none_is_a_value_of_settings_that_may_be_none_unless_it_is_a_name():
    assert Example(count="none", title="none") == Example()
    with pytest.raises(UsageError, match="kind=none"):
        Example(kind="none")


def test_settings_are_frozen_and_replacing_one_checks_again():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Example().size = 1
    with pytest.raises(UsageError, match="size=9"):
        dataclasses.replace(Example(), size=9)


def test_json_round_trip():
    made = Example(size="1/3", places="0.5,7", kind="three")
    values = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert Example.from_json(values) == made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.pop("size"), "needs every setting. Received: none for size"),
        (lambda values: values.update(sise=1), "Did you mean 'size'?"),
        (lambda values: values.update(count="many"), "count=many"),
    ],
)
def test_json_is_read_strictly(change, message):
    values = Example().to_json()
    change(values)
    with pytest.raises(UsageError, match=message):
        Example.from_json(values)


def test_a_setting_that_a_file_is_older_than_has_the_value_of_that_time():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Grown(Example):
        order: str = setting("names", choice(("new", "old")), "an order", "new", earlier="old")

    assert Grown.from_json(Example().to_json()).order == "old" and Grown().order == "new"
    assert Grown.from_json(Grown().to_json()) == Grown()
    assert Grown(order="old").identity() == dataclasses.asdict(Example())  # results of that time still belong
    assert Grown().identity("names") == Example().of_sections("names") | {"order": "new"}


def test_json_that_is_no_object():
    with pytest.raises(UsageError, match="list"):
        Example.from_json([1, 2])


def test_settings_of_sections():
    assert Example(count=4).of_sections("numbers") == {"size": 0.5, "count": 4, "twice": 1.0}
    assert list(Example().of_sections("lists", "names")) == ["places", "kind", "title", "loud"]


def test_beside_resume_a_setting_may_be_repeated_and_not_changed():
    stored = Example(size=0.25, places=(1, 2))
    stored.require_same({"size": "1/4", "places": "1,2", "title": "none"}, "run")
    with pytest.raises(UsageError, match=r"of the run: places=1,2\. Received: places=1,3\. Leave it out"):
        stored.require_same({"places": "1,3"}, "run")
