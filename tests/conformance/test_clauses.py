"""Each clause of the contract has an id and a check, or a reason why nothing checks it."""

import hashlib
import json

import pytest

from locara_conformance import clauses
from locara_conformance.checks import CHECKS
from locara_conformance.groups import jsonrpc
from locara_conformance.host import scenarios
from locara_conformance.untried import UNTRIED
from locara_protocol import PROTOCOL_VERSION

PAGE = clauses.PAGE.read_text("utf-8")
FROZEN = {
    "1.0": "af6d67a151aa500a",
    "1.1": "ff8770578f0adecf",  # picked files that come without a path
    "1.2": "578968670115cd7e",  # edits of several pictures
    "1.3": "81ad40d7568279f0",  # what a client owes its caller
    "1.4": "ccb0affda390d5be",  # jobs.list has a picture's prompt and size
}
"""Each version of the list, with the digest of its ids and levels. The last one is the current contract. A change to
the list needs a new version here and in ``clauses.py``: hosts and other implementations say which list they follow."""


def uncovered(known, checks, played, untried):
    """Return the mismatches, in words."""
    tried = {id for one in checks.values() for id in one.clauses} | {
        id for one in played.values() for id in one.clauses
    }
    yield from (f"{id} is tried by nothing" for id in known.keys() - tried - untried.keys())
    yield from (f"{id} is tried and said not to be" for id in untried.keys() & tried)
    yield from (f"{id} is no clause" for id in (tried | untried.keys()) - known.keys())
    musts = {id for one in checks.values() if one.level == "MUST" for id in one.clauses}
    musts |= {id for one in played.values() for id in one.clauses}
    for id in known.keys() & tried - musts:
        if known[id]["level"] == "MUST":
            yield f"{id} is a MUST that only a SHOULD tries"
    yield from (f"{one.id} tries no clause" for one in [*checks.values(), *played.values()] if not one.clauses)


def without_id(page):
    return [one.text for one in clauses.sentences(page) if one.normative and not one.ids]


def digest(known):
    return hashlib.sha256(json.dumps(sorted((id, one["level"]) for id, one in known.items())).encode()).hexdigest()[:16]


def test_everything_that_is_worded_as_a_promise_has_an_id():
    assert without_id(PAGE) == []


def test_every_clause_is_tried_or_has_a_reason():
    assert sorted(uncovered(clauses.load(), CHECKS, scenarios.load(), UNTRIED)) == []


def test_the_list_is_fresh():
    assert json.loads(clauses.FILE.read_text("utf-8")) == clauses.requirements(PAGE)


def test_the_list_does_not_change_without_a_version():
    assert list(FROZEN)[-1] == clauses.VERSION
    assert FROZEN[clauses.VERSION] == digest(clauses.load())
    assert clauses.VERSION.partition(".")[0] == str(PROTOCOL_VERSION)


def test_each_row_of_the_table_has_a_check():
    rows = [one.ids[0][0] for one in clauses.sentences(PAGE) if one.section == "Fine points" and one.ids]
    tried = {id for _, ids, _ in jsonrpc.ROWS for id in ids.split()}
    assert len(rows) >= 20
    assert set(rows[:20]) <= tried


# --- the tests above can fail ---

WHOLE = {"A-1": {"level": "MUST"}, "A-2": {"level": "SHOULD"}}


class Tries:
    def __init__(self, id, *ids, level="MUST"):
        self.id, self.clauses, self.level = id, ids, level


@pytest.mark.parametrize(
    ("checks", "untried", "told"),
    [
        ([("MUST", "A-1", "A-2")], {}, []),
        ([("MUST", "A-1")], {"A-2": "why"}, []),
        ([("MUST", "A-1")], {}, ["A-2 is tried by nothing"]),
        ([("MUST", "A-1", "A-2")], {"A-2": "why"}, ["A-2 is tried and said not to be"]),
        ([("MUST", "A-1", "A-2", "A-3")], {}, ["A-3 is no clause"]),
        ([("MUST", "A-1", "A-2")], {"A-3": "why"}, ["A-3 is no clause"]),
        ([("SHOULD", "A-1", "A-2")], {}, ["A-1 is a MUST that only a SHOULD tries"]),
        ([("MUST", "A-1", "A-2"), ("MUST",)], {}, ["check 1 tries no clause"]),
    ],
)
def test_what_does_not_fit_together_is_told(checks, untried, told):
    made = {at: Tries(f"check {at}", *ids, level=level) for at, (level, *ids) in enumerate(checks)}
    assert list(uncovered(WHOLE, made, {}, untried)) == told


PROMISES = """# A page

It must begin. [A-1]

## Part

- One thing. [A-2] It is never late. [A-3] Another thing that is long and
  goes on, and is refused; see `a. B` there. [A-4 SHOULD]
| input | answer |
|---|---|
| `x` | -32602 with `data.path` [A-5] |

    never in code

```text
never in an example
```

## Conformance

It never promises.
"""


def test_sentences_are_found_with_their_ids():
    told = [(one.section, one.ids, one.normative) for one in clauses.sentences(PROMISES) if one.ids or one.normative]
    assert told == [
        ("A page", (("A-1", "MUST"),), True),
        ("Part", (("A-2", "MUST"),), False),
        ("Part", (("A-3", "MUST"),), True),
        ("Part", (("A-4", "SHOULD"),), True),
        ("Part", (("A-5", "MUST"),), True),
    ]
    assert clauses.requirements(PROMISES)["requirements"]["A-5"]["text"] == "`x` | -32602 with `data.path`"


@pytest.mark.parametrize("id", [" [A-1]", " [A-3]", " [A-4 SHOULD]", " [A-5]"])
def test_a_promise_without_an_id_is_found(id):
    assert without_id(PROMISES) == []
    assert len(without_id(PROMISES.replace(id, ""))) == 1


def test_an_id_stands_once():
    with pytest.raises(ValueError, match="A-1 appears twice"):
        clauses.requirements(PROMISES.replace("A-2", "A-1"))


def test_another_id_or_level_changes_the_digest():
    known = clauses.requirements(PROMISES)["requirements"]
    others = [PROMISES.replace(" SHOULD", ""), PROMISES.replace("A-5", "A-6"), PROMISES.replace(" [A-2]", "")]
    assert digest(known) == digest(clauses.requirements(PROMISES.replace("late", "slow"))["requirements"])
    assert all(digest(clauses.requirements(page)["requirements"]) != digest(known) for page in others)


def test_a_stale_list_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(clauses, "FILE", tmp_path / "requirements.json")
    assert clauses.main(["--check"]) == 1
    assert clauses.main([]) == 0
    assert clauses.main(["--check"]) == 0
