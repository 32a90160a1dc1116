"""Checked dataclasses: what is refused, whoever makes the value, and the line that says so."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import pytest

from losparse.errors import LosparseError
from losparse.validation import (
    AnyText,
    ByName,
    Flag,
    NotEmpty,
    Numeric,
    OneOf,
    OneOrMore,
    Says,
    Share,
    ShareBelow1,
    ShareBetween,
    ShareFrom0,
    WrongValueError,
    ZeroOrMore,
    checked,
    json_schema,
    read_as,
    wanted,
)
from losparse.validation.fields import attribute_docs

if TYPE_CHECKING:
    from somewhere import NotThere

COLOURS = ["red", "green"]


@checked
class Wheel:
    """A wheel.

    Attributes:
        size: how large,
            in shares of a cart.
        spokes: how many.
    """

    size: Share = 0.5
    spokes: OneOrMore = 8
    kind: Literal["wood", "steel"] = "wood"
    worn: ShareBelow1 | None = None
    spare: Flag = False
    about: ClassVar[NotThere]

    def __post_init__(self) -> None:
        if self.spokes == 13:
            raise LosparseError("spokes must not be 13")
        if self.kind == "steel" and self.spare:
            raise LosparseError("no wheel of steel is a spare one")


@checked
class Disc(Wheel):
    spokes: OneOrMore = field(default=1, init=False)
    thick: ZeroOrMore = 2


@dataclass(frozen=True)
class Own(Wheel):
    """A user's own wheel: a plain dataclass over a checked one."""

    mine: object = None


def is_wheel(value: object) -> bool:
    return isinstance(value, Wheel)


@checked
class Cart:
    front: Wheel = field(default_factory=Wheel)
    colour: Annotated[str, OneOf(lambda: COLOURS)] = "red"
    names: Annotated[tuple[str, ...], Says("a list of names")] = ()
    loads: Annotated[tuple[int, int], Says("two loads")] | None = None
    wheels: Annotated[dict[str, Wheel], NotEmpty()] | None = None
    rear: Annotated[Wheel | None, ByName({"wheel": Wheel, "disc": Disc}, "none", is_wheel, "Disc(thick=3)")] = None
    within: ZeroOrMore = 0
    title: Annotated[AnyText, NotEmpty()] | None = None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 3}, "size must be a number in (0, 1], got 3"),
        ({"size": float("nan")}, "size must be a finite number in (0, 1], got nan"),
        ({"size": "1e999"}, "size must be a finite number in (0, 1], got '1e999'"),
        ({"size": None}, "size must be a number in (0, 1], got None"),
        ({"spokes": 8.5}, "spokes must be a whole number of 1 or more, got 8.5"),
        ({"spokes": True}, "spokes must be a whole number of 1 or more, got True"),
        ({"spokes": "1_0"}, "spokes must be a whole number of 1 or more, got '1_0'"),
        ({"spokes": float("inf")}, "spokes must be a whole number of 1 or more, got inf"),
        ({"kind": "clay"}, "kind must be one of wood, steel, got 'clay'"),
        ({"worn": 1}, "worn must be a number in [0, 1), or null, got 1"),
        ({"spare": 1}, "spare must be true or false, got 1"),
        ({"spoke": 3}, "unknown key 'spoke'; did you mean 'spokes'?"),
        ({"xyzzy": 3, "size": 7}, "unknown key 'xyzzy'; allowed: size, spokes, kind, worn, spare"),
        ({"spokes": 13}, "spokes must not be 13"),
        ({"kind": "steel", "spare": True}, "no wheel of steel is a spare one"),
    ],
)
def test_values_made_in_python(values, message):
    with pytest.raises(WrongValueError) as caught:
        Wheel(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"front": {"sise": 1}}, "cart.json: unknown key 'front.sise'; did you mean 'size'?"),
        ({"front": {"size": 2}, "colours": 1}, "cart.json: unknown key 'colours'; did you mean 'colour'?"),
        ({1: 2}, "cart.json: unknown key '1'; allowed: front, colour, names, loads, wheels, rear, within, title"),
        ({"front": 3}, "cart.json: front must be a table of keys and values, got 3"),
        ({"front": {"spokes": 13}}, "cart.json: front.spokes must not be 13"),
        (
            {"front": {"kind": "steel", "spare": True}},
            "cart.json: front: no wheel of steel is a spare one",
        ),
        ({"colour": "blue"}, "cart.json: colour must be one of red, green, got 'blue'"),
        ({"names": "ox"}, "cart.json: names must be a list of names, got 'ox'"),
        ({"names": ["ox", 3]}, "cart.json: names[1] must be a text, got 3"),
        ({"loads": [3]}, "cart.json: loads[1] is missing; it must be a whole number"),
        ({"loads": 3}, "cart.json: loads must be two loads, or null, got 3"),
        ({"wheels": {}}, "wheels must be a table of keys and values that is not empty, or null, got {}"),
        (
            {"wheels": {"a.b": {"worn": 2}}},
            "wheels['a.b'].worn must be a number in [0, 1), or null, got 2",
        ),
        ({"wheels": {7: {}}}, "cart.json: wheels must have texts as keys, got 7"),
        ({"wheels": {"a.b": {"spok": 2}}}, "unknown key \"wheels['a.b'].spok\"; did you mean 'spokes'?"),
        (
            {"rear": {"name": "disc", "thick": -1}},
            "rear.thick must be a whole number of 0 or more, got -1",
        ),
        (
            {"rear": {"name": "disc", "spokes": 3}},
            "'rear.spokes' of 'disc'; allowed: size, kind, worn, spare, thick",
        ),
        ({"rear": {"name": "wheel", "spokes": 13}}, "cart.json: rear.spokes must not be 13"),
        (
            {"rear": {"name": "wheels"}},
            "rear.name must be one of disc, wheel, none, got 'wheels'; did you mean 'wheel'?",
        ),
        ({"rear": {}}, "rear needs a name, one of disc, wheel, none"),
        ({"rear": {"thick": 3}}, "rear needs a name, one of disc, wheel, none, got thick"),
        ({"rear": {"name": "none", "size": 1}}, "rear 'none' has no settings, got size; leave them out"),
        (
            {"rear": "disc"},
            "rear must be a table of keys and values, or a value such as Disc(thick=3), got 'disc'; in a file write "
            "{name: disc}",
        ),
        ({"within": -1}, "cart.json: within must be a whole number of 0 or more, got -1"),
        ({"title": ""}, "cart.json: title must be a text that is not empty, or null, got ''"),
        ([], "cart.json must be a table of keys and values, got []"),
    ],
)
def test_values_read_from_a_file(data, message):
    with pytest.raises(LosparseError) as caught:
        read_as(Cart, data, "cart.json")
    assert str(caught.value).endswith(message)
    assert "\n" not in str(caught.value)


def test_a_file_is_read_as_its_types_say():
    data = {
        "names": ["ox"],
        "loads": [1, 2],
        "wheels": {"a": {"size": "5e-1"}},
        "rear": {"name": "disc"},
        "within": 3.0,
    }
    cart = read_as(Cart, json.loads(json.dumps({**data, "within": 3.0})))
    assert (cart.names, cart.loads, cart.wheels, cart.rear) == (("ox",), (1, 2), {"a": Wheel()}, Disc())
    assert cart.within == 3 and type(cart.within) is int and type(cart.wheels["a"].size) is float
    assert read_as(Cart, {"rear": {"name": "none"}}).rear is None
    assert Cart(rear=Own()).rear == Own()


def test_numbers_of_numpy_are_numbers():
    wheel = Wheel(size=np.float32(0.25), spokes=np.int64(3))
    assert asdict(wheel)["size"] == 0.25 and type(wheel.size) is float and type(wheel.spokes) is int
    with pytest.raises(WrongValueError, match="spokes must be a whole number of 1 or more, got "):
        Wheel(spokes=np.int64(0))


def test_it_is_an_ordinary_frozen_dataclass():
    wheel = Wheel(0.25, kind="steel")
    assert wheel == Wheel(size=0.25, kind="steel") and hash(wheel) == hash(copy.deepcopy(wheel))
    assert pickle.loads(pickle.dumps(Disc(thick=7))) == Disc(thick=7) and Disc().spokes == 1
    assert replace(wheel, spokes=3).spokes == 3
    with pytest.raises(WrongValueError, match="spokes must be a whole number of 1 or more, got 0"):
        replace(wheel, spokes=0)
    with pytest.raises(FrozenInstanceError):
        wheel.spokes = 3
    with pytest.raises(WrongValueError, match=r"^spokes must be a whole number of 1 or more, got 0$"):
        Wheel(0.25, 0)
    with pytest.raises(WrongValueError, match="Wheel has the fields size, spokes, kind, worn, spare, each once"):
        Wheel(0.25, size=0.5)


def test_a_refusal_crosses_processes():
    with pytest.raises(WrongValueError) as caught:
        Wheel(size=3)
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, LosparseError) and str(again) == "size must be a number in (0, 1], got 3"


def test_a_plain_dataclass_over_a_checked_one_has_its_fields_checked():
    assert Own(size=0.25, mine=3).mine == 3
    with pytest.raises(WrongValueError, match=r"size must be a number in \(0, 1\], got 3"):
        Own(size=3)
    with pytest.raises(WrongValueError, match="spokes must not be 13"):
        Own(spokes=13)


@pytest.fixture
def blue():
    """A colour that is added when the classes that name the table are there already."""
    COLOURS.append("blue")
    yield
    COLOURS.remove("blue")


@pytest.mark.usefixtures("blue")
def test_what_is_added_to_a_table_counts():
    assert read_as(Cart, {"colour": "green"}).colour == "green"
    assert read_as(Cart, {"colour": "blue"}).colour == "blue"
    assert json_schema(Cart)["properties"]["colour"]["enum"] == COLOURS


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (ShareFrom0, "a number in [0, 1]"),
        (ShareBetween, "a number in (0, 1)"),
        (Annotated[int, Numeric(most=3)], "a whole number of 3 or less"),
        (Annotated[float, Numeric(below=3)], "a number below 3"),
        (Annotated[int | tuple[int, ...], Says("a size or several")] | None, "a size or several, or null"),
        (int | tuple[int, ...], "a whole number, or a list"),
        (list[int], "a list"),
    ],
)
def test_types_in_words(hint, words):
    assert wanted(hint) == words


def test_json_schema_says_the_ranges_and_what_the_docstring_says():
    schema = json_schema(Cart)
    size = schema["$defs"]["Wheel"]["properties"]["size"]
    about = {"description": "how large, in shares of a cart.", "default": 0.5}
    assert size == {"type": "number", "exclusiveMinimum": 0, "maximum": 1, **about}
    assert schema["$defs"]["Wheel"]["description"] == "A wheel."
    assert schema["additionalProperties"] is False and schema["properties"]["within"]["minimum"] == 0
    none, wheel, disc = schema["properties"]["rear"]["anyOf"]
    assert none["properties"] == {"name": {"const": "none"}} and wheel["title"] == "wheel"
    assert disc["required"] == ["name"] and list(disc["properties"]) == [
        "name",
        "size",
        "kind",
        "worn",
        "spare",
        "thick",
    ]


def test_classes_are_defined_without_pydantic():
    code = (
        "import sys\n"
        "from losparse.validation import Share, checked\n"
        "@checked\n"
        "class A:\n"
        "    keep: Share = 0.2\n"
        "before = {'pydantic', 'numpy', 'torch'} & set(sys.modules)\n"
        "A()\n"
        "print(before, 'pydantic' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set() True"


def test_fields_are_read_of_a_docstring_that_python_3_13_has_dedented():
    says = {"size": "how large, in shares of a cart.", "spokes": "how many."}
    about = "A wheel.\n\nAttributes:\n    size: how large,\n        in shares of a cart.\n    spokes: how many.\n"
    indented = about.replace("\n", "\n    ")
    for text in (about, indented):
        assert attribute_docs(type("Told", (), {"__doc__": text})) == says
