"""Identical calls at the same time share one look at the disk, and none gets an answer from before it arrived."""

import anyio
import anyio.to_thread
import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.daemon.wire.shared_work import SharedWork
from locara_sidecar.models import catalogue, operations


class Disk:
    """The simulated disk: each look waits until it is released, and returns how often the disk was changed by then."""

    def __init__(self):
        self.changed = self.looks = 0
        self.let_go = anyio.Event()

    async def look(self):
        self.looks += 1
        found = self.changed
        await self.let_go.wait()
        return found


async def _asked(shared, work, found, kind="list"):
    try:
        found.append(await shared.run(kind, work))
    except RpcError as error:
        found.append(error.kind)


def test_calls_that_come_during_a_look_share_the_next_one():
    found = []

    async def main():
        disk, shared = Disk(), SharedWork()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_asked, shared, disk.look, found)
            await anyio.wait_all_tasks_blocked()
            disk.changed = 1
            for _ in range(30):
                tasks.start_soon(_asked, shared, disk.look, found)
            await anyio.wait_all_tasks_blocked()
            disk.let_go.set()
        return disk.looks

    assert anyio.run(main) == 2
    assert found == [0] + 30 * [1], "what came after the change sees it"


@pytest.mark.parametrize(("begun", "seen"), [(True, [0, 0, 0, 1]), (False, [0, 1, 1, 1, 1])])
def test_a_call_that_is_cancelled_takes_no_other_with_it(begun, seen):
    found = []

    async def main():
        disk, shared = Disk(), SharedWork()
        async with anyio.create_task_group() as tasks:
            if not begun:
                tasks.start_soon(_asked, shared, disk.look, found)
                await anyio.wait_all_tasks_blocked()
            async with anyio.create_task_group() as cancelled:
                cancelled.start_soon(_asked, shared, disk.look, found)
                await anyio.wait_all_tasks_blocked()
                for _ in range(3):
                    tasks.start_soon(_asked, shared, disk.look, found)
                await anyio.wait_all_tasks_blocked()
                cancelled.cancel_scope.cancel()
            disk.changed = 1
            disk.let_go.set()
        await _asked(shared, disk.look, found)

    anyio.run(main)
    assert found == seen


def test_calls_of_another_kind_do_not_wait():
    found = []

    async def quick():
        return "quick"

    async def main():
        disk, shared = Disk(), SharedWork()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_asked, shared, disk.look, found, "list")
            await anyio.wait_all_tasks_blocked()
            await _asked(shared, quick, found, "get")
            disk.let_go.set()

    anyio.run(main)
    assert found == ["quick", 0]


def test_each_call_gets_the_error_of_the_look_that_it_shares_and_the_next_look_is_made():
    found = []

    async def main():
        disk, shared = Disk(), SharedWork()

        async def fails():
            await disk.look()
            raise RpcError("StorageError", "no")

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(_asked, shared, fails, found)
            await anyio.wait_all_tasks_blocked()
            disk.let_go.set()
        await _asked(shared, disk.look, found)

    anyio.run(main)
    assert found == [*3 * ["StorageError"], 0]


@pytest.mark.parametrize(
    ("method", "params"), [("models.list", {}), ("models.usage", {}), ("models.get", {"model": "pocket"})]
)
def test_many_requests_get_the_same_as_one(hosts, method, params):
    host = hosts.session()
    alone = _steady(host.call(method, params))
    calls = [host.start(method, params) for _ in range(200)]
    assert all(_steady(call.result(60)) == alone for call in calls)


def _steady(result):
    """Return the answer without the free memory, which changes by itself."""
    models = result.get("models", [result])
    return [{name: value for name, value in model.items() if name not in ("fit", "recommended")} for model in models]


def test_a_list_of_many_models_looks_at_the_store_once(monkeypatch):
    looks = []

    class Watched:
        def entries(self):
            looks.append(self)
            return []

    class Known(list):
        store = Watched()

        def folders(self, installed):
            return {}

        def own_folder(self, model_id):
            return None

    known = Known(catalogue.load())
    assert len(operations.describe(known, known, {}, ["torch"])) > 5
    assert len(looks) == 1
