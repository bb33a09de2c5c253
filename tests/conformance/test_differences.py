"""If an answer is not what a fixture expects, the report names the place, since both may be longer than it shows."""

import json

import pytest

from locara_conformance.cases import Case, difference, fits, load

LONG = "x" * 500


@pytest.mark.parametrize(
    ("expected", "actual", "told"),
    [
        ({"a": 1}, {"a": 2}, "$.a is 2, not 1"),
        ({"a": 1}, {"a": True}, "$.a is true, not 1"),
        ({"a": {"b": 1}}, {"a": {"c": 1}}, "$.a.b is missing"),
        ({"a": {"b": 1}}, {"a": [1]}, '$.a is [1], not {"b": 1}'),
        ({"a": {"$absent": True}}, {"a": None}, "$.a is there, and must not be"),
        ({"a": {"$oneOf": [1, 2]}}, {"a": 3}, "$.a is 3, none of [1, 2]"),
        ({"a": {"$oneOf": [1, {"$absent": True}]}, "b": 1}, {}, "$.b is missing"),
        ({"a": {"$length": 2}}, {"a": [1]}, '$.a is [1], not {"$length": 2}'),
        ([{"id": 1}, {"id": 2}], [{"id": 1}, {"id": 3}], "$[1].id is 3, not 2"),
        ([1, 2], [1], "$ is [1], not [1, 2]"),
        ({"a": LONG, "b": {"c": 1}}, {"a": LONG, "b": {"c": 2}}, "$.b.c is 2, not 1"),
    ],
)
def test_the_first_place_that_differs_is_named(expected, actual, told):
    assert not fits(expected, actual)
    assert difference(expected, actual) == told


def test_a_fixtures_report_begins_with_the_place():
    due = {"id": 1, "result": {"name": LONG, "limit": 16}}
    case = Case("file", 1, "description", [], [due], False, False, False, "protocol")
    told = case.problem([{"id": 1, "result": {"name": LONG, "limit": 17}}])
    assert told is not None
    assert told.startswith("$.result.limit is 17, not 16;")


def test_each_fixture_that_nothing_fits_has_a_place():
    for case in load():
        for due in case.expect:
            for odd in ({}, [], {"jsonrpc": "2.0", "id": None}):
                if not fits(due, odd):
                    assert difference(due, odd).startswith("$"), json.dumps(due)
