"""Whatever is in the shared cache beside a model is skipped and logged, and no call fails because of it."""

import json
import os

import msgspec
import pytest

from locara_sidecar.models import operations
from locara_sidecar.models.cache.digest import META, model_digest
from locara_sidecar.models.cache.store import Store
from locara_sidecar.models.catalogue import Catalogue
from locara_sidecar.models.checks.verify import verify
from locara_sidecar.models.forms import usable
from locara_sidecar.models.lease import Leases
from support.model_store import download, entry_for
from support.prepared_forms import prepare, quiet

KEY = "ab" * 32
VALUES = [
    None, True, -1, 1.5, 2**31, 2**63, 10**400, -(10**400), "", "evil", "a\0b", "../../outside", "/etc/passwd",
    "x" * 10_000, [], [None], {}, {"a": []}, [[]], "sha256:" + "g" * 64, KEY + "\n",
]  # fmt: skip
RAW = {
    "nothing": b"",
    "no JSON": b"{",
    "no text": b"\xff\xfe",
    "deep": b"[" * 1_000_000,
    "deep objects": b'{"source":' * 200_000,
    "deep, where nobody looks": b'{"x":' + b"[" * 1_000_000,
    "deep, of its own kind": b'{"derivedFrom":' * 200_000,
    "a list": b"[]",
    "null": b"null",
    "a surrogate": b'{"version": "\\ud800"}',
    "no number": b'{"format": NaN}',
    "huge": b'{"format": 1' + b"0" * 100_000 + b"}",
    "long": b" " * (5 << 20),
}


@pytest.fixture
def good(store, hub):
    """A model with a prepared form; no test may change either."""
    model = download(store, hub)
    return model, prepare(store, model)


def forge(store, data, key=KEY):
    folder = store.models / key
    folder.mkdir()
    (folder / META).write_bytes(data)
    return folder


def told(store, good):
    """Return what all methods that read every entry say. None may raise."""
    model, form = good
    fresh = Store(store.root)
    catalogue = Catalogue([(entry_for(), None)]).with_cache(store.root)
    usage = operations.usage(fresh)
    collected = operations.gc(fresh, dry_run=True)
    verify(fresh, fresh.find("mine"), "mine", quiet, fresh.forms(model.meta.digest))
    forms = operations._forms(catalogue, entry_for(), fresh.find("mine"), usable(fresh.entries()))
    return {
        "usage": {(entry.model, entry.digest) for entry in usage.entries},
        "gc": collected.removed,
        "forms": [one.digest for one in forms],
        "found": fresh.find("mine").meta.digest,
        "digest": model_digest(model.folder),
    } | {"form": form.meta.digest}


def places(value, where=()):
    """Yield every member of a JSON value, at any depth."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*where, key)
        yield from places(inner, (*where, key))


def changed(value, where, new):
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = new
    return copy


def encode(value):
    return json.dumps(value).encode()


@pytest.mark.parametrize("data", RAW.values(), ids=RAW)
def test_an_entry_that_cannot_be_read_is_passed_over_and_said_so(store, good, caplog, data):
    before = told(store, good)
    forge(store, data)
    fresh = Store(store.root)
    assert fresh.entry(KEY) is None
    assert fresh.entry(KEY) is None
    (record,) = [record for record in caplog.records if "was skipped" in record.message]
    assert record.fields["folder"] == KEY
    assert told(store, good) == before


def test_every_member_with_every_value_makes_an_entry_that_is_read_or_passed_over(store, good):
    """As another version of the program might write them, or an engine might cause them to be written."""
    before = told(store, good)
    for installed in good:
        meta = json.loads((installed.folder / META).read_bytes()) | {"digest": f"sha256:{KEY}", "ids": []}
        meta["files"], meta["source"] = meta["files"][:1], meta["source"] or [{"imported": True}]
        folder = forge(store, encode(meta))
        count = 0
        for where in places(meta):
            for value in VALUES:
                (folder / META).write_bytes(encode(changed(meta, where, value)))
                fresh = Store(store.root)
                entry = fresh.entry(KEY)
                count += entry is None
                if entry is None:
                    continue
                now = operations.usage(fresh)
                assert before["usage"] <= {(one.model, one.digest) for one in now.entries}
                operations.gc(fresh, dry_run=True)
                assert all(store.blob(file.sha256).parent == store.blobs for file in entry.meta.files)
                assert all((folder / file.path).resolve().is_relative_to(folder) for file in entry.meta.files)
        assert count > 200
        (folder / META).unlink()
        folder.rmdir()
    assert told(store, good) == before


@pytest.mark.parametrize(
    ("member", "value"), [("quantization", "evil"), ("precision", "evil"), ("engine", "evil"), ("layout", -1)]
)
def test_a_form_of_no_kind_that_there_is_does_not_count(store, good, member, value):
    before = told(store, good)
    meta = json.loads((good[1].folder / META).read_bytes()) | {"digest": f"sha256:{KEY}"}
    meta["derivedFrom" if "derivedFrom" in meta else "derived_from"][member] = value
    forge(store, encode(meta))
    assert told(store, good) == before


@pytest.mark.skipif(os.name != "posix", reason="pipes and links of POSIX")
def test_no_pipe_is_waited_for_and_no_link_is_needed(store, good):
    before = told(store, good)
    (store.models / KEY).mkdir()
    os.mkfifo(store.models / KEY / META)
    (store.models / ("cd" * 32)).symlink_to(store.models / "gone")
    (store.models / "a file").write_bytes(b"x")
    (store.models / "no name").mkdir()
    (store.models / "no name" / META).mkdir()
    stage = store.incoming / "tree-strange"
    stage.mkdir(parents=True)
    os.mkfifo(stage / "lock")
    assert told(store, good) == before


@pytest.mark.parametrize("seconds", [-1, 2**31, 253402300800, 2**40])
def test_a_time_that_no_calendar_has_is_told_as_one_that_it_has(store, good, seconds):
    try:
        os.utime(good[0].folder / META, (seconds, seconds))
    except (OSError, OverflowError):
        pytest.skip("the file system has no such time")
    used = {entry.digest: entry.last_used for entry in operations.usage(Store(store.root)).entries}
    assert used[good[0].meta.digest].endswith("Z")


@pytest.mark.parametrize("seconds", [-1e18, -1e12, 253_402_300_800.0, 1e12, 1e18])
def test_the_same_where_the_file_system_keeps_such_a_time(seconds):
    """Most file systems do not."""
    assert operations._utc(seconds).endswith("Z")


@pytest.mark.parametrize(
    "data", [*RAW.values(), b'{"pid": 1, "model": "a", "bytes": -1}', b'{"pid":1,"model":"a","bytes":1e400}']
)
def test_a_promise_of_memory_that_is_none_takes_none_from_others(tmp_path, data):
    leases, other = Leases(tmp_path), Leases(tmp_path)
    other.hold("mine", 1000)
    (path,) = (tmp_path / "leases").glob("*.json")
    path.write_bytes(data)
    assert leases.reserved() == 0
    path.write_bytes(msgspec.json.encode({"pid": os.getpid() + 1, "model": "a", "bytes": 1000}))
    assert leases.reserved() == 1000
    other.release()
