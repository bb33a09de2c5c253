"""The ``locara-conformance host`` adapter for the async Python client. An argument can choose the event loop."""

from __future__ import annotations

import json
import subprocess
import sys

import anyio
from sync import described

from locara_protocol.async_client import AsyncCall, AsyncSidecar, ClientError, SidecarGoneError


class Adapter:
    """Perform the steps of one scenario with one sidecar."""

    def __init__(self, command, tasks):
        self.sidecar = AsyncSidecar(command, stderr=subprocess.DEVNULL)
        self.tasks, self.calls, self.there = tasks, {}, False

    async def open(self, step):
        await self.sidecar.__aenter__()
        self.there = True
        return {"ok": await self.sidecar.initialize()}

    async def start(self, step):
        self.calls[step["call"]] = started = Watched()
        started.call = self.sidecar.start(step["method"], step["params"], stream=step.get("stream", False))
        self.tasks.start_soon(started.take, step.get("slowMs", 0) / 1000)
        return {"ok": {}}

    async def messages(self, step):
        watched = self.calls[step["call"]]
        async with watched.more:
            while len(watched.seen) < step["count"]:
                await watched.more.wait()
        return {"ok": {"count": len(watched.seen)}}

    async def cancel(self, step):
        self.calls[step["call"]].call.cancel()
        return {"ok": {}}

    async def result(self, step):
        watched = self.calls[step["call"]]
        try:
            with anyio.fail_after(step["withinMs"] / 1000 if "withinMs" in step else None):
                told = {"ok": await watched.result()}
        except (ClientError, TimeoutError) as error:
            told = {"error": described(error)}
        return told | {"messages": watched.seen}

    async def pause(self, step):
        await anyio.sleep(step["ms"] / 1000)
        return {"ok": {}}

    async def close(self, step):
        return {"ok": {"status": await self.sidecar.close() if self.there else None}}


class Watched:
    """A call, and what its caller has seen of it so far."""

    def __init__(self):
        self.call: AsyncCall | None = None
        self.seen, self.taken = [], anyio.Event()
        self.more = anyio.Condition()

    async def take(self, pause):
        assert self.call is not None
        try:
            async for message in self.call.messages():
                await anyio.sleep(pause)
                async with self.more:
                    self.seen.append(message)
                    self.more.notify_all()
        except ClientError:
            pass  # result() reports it
        self.taken.set()

    async def result(self):
        if self.call is None:
            raise SidecarGoneError(None)
        result = await self.call.result()
        await self.taken.wait()
        return result


async def main():
    task = json.loads(sys.stdin.readline())
    async with anyio.create_task_group() as tasks:
        adapter = Adapter(task["sidecar"], tasks)
        for number, step in enumerate(task["steps"]):
            try:
                told = await getattr(adapter, step["do"])(step)
            except (ClientError, TimeoutError, OSError) as error:
                told = {"error": described(error)}
            print(json.dumps({"step": number, **told}), flush=True)
        if adapter.there:
            await adapter.sidecar.__aexit__(None, None, None)


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[1] if sys.argv[1:] else "asyncio")
