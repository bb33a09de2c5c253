"""Only plain relative names pass, and they are all returned in one Unicode form."""

import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.capability.files import names
from support.granted_folders import ESCAPES, ODD

FINE = [
    "a.png",
    "a/b/c.png",
    "a..png",
    "a-.png",
    " a.png",
    "Käse/Übung 1.png",
    "図/絵.png",
    "👩‍🎨.png",
    "concert.png",
    "com.png",
    "a" * 255,
    "a.b.c",
    "it's (1) [2] #3 50%.png",
    "COM10.png",
    "a b/c d.png",
]


@pytest.mark.parametrize("path", ESCAPES + ODD, ids=ascii)
def test_refused(path: str):
    with pytest.raises(RpcError) as raised:
        names.split(path)
    assert (raised.value.kind, raised.value.data["path"]) == ("InvalidParams", "$.options.output.path")


@pytest.mark.parametrize("path", FINE, ids=ascii)
def test_accepted_as_it_is(path: str):
    assert "/".join(names.split(path)) == path


def test_equal_names_come_out_equal():
    assert names.split("e\u0301.png") == names.split("\u00e9.png") == ("\u00e9.png",)


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        ("name.png", 2, "name-2.png"),
        ("name", 3, "name-3"),
        ("a.b.png", 10, "a.b-10.png"),
        ("a" * 251 + ".png", 2, "a" * 249 + "-2.png"),
        ("é" * 125 + "a.png", 2, "é" * 124 + "-2.png"),
    ],
)
def test_numbered_names_stay_short_enough(name: str, number: int, expected: str):
    assert names.numbered(name, number) == expected
    assert len(expected.encode()) <= names.MAX_NAME_BYTES
