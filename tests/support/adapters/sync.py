"""The ``locara-conformance host`` adapter for the Python client.

The format of its input and output is described in ``protocol/conformance/README.md``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

from locara_protocol.client import ClientError, ProtocolViolationError, RemoteError, Sidecar, SidecarGoneError


class Adapter:
    """Perform the steps of one scenario with one sidecar."""

    def __init__(self, command):
        self.command = command
        self.sidecar = None
        self.calls = {}

    def open(self, step):
        self.sidecar = Sidecar(self.command, stderr=subprocess.DEVNULL)
        return {"ok": self.sidecar.initialize()}

    def start(self, step):
        stream = step.get("stream", False)
        assert self.sidecar is not None
        self.calls[step["call"]] = started = Watched()
        started.begin(self.sidecar.start(step["method"], step["params"], stream=stream), step.get("slowMs", 0))
        return {"ok": {}}

    def messages(self, step):
        return {"ok": {"count": self.calls[step["call"]].count(step["count"])}}

    def cancel(self, step):
        self.calls[step["call"]].call.cancel()
        return {"ok": {}}

    def result(self, step):
        call = self.calls[step["call"]]
        try:
            told = {"ok": call.result(step.get("withinMs"))}
        except (ClientError, TimeoutError) as error:
            told = {"error": described(error)}
        return told | {"messages": call.seen()}

    def pause(self, step):
        time.sleep(step["ms"] / 1000)
        return {"ok": {}}

    def close(self, step):
        return {"ok": {"status": self.sidecar.close() if self.sidecar else None}}


class Watched:
    """A call, and what its caller has seen of it so far."""

    def __init__(self):
        self.call, self._messages, self._more = None, [], threading.Condition()
        self._problem = None

    def begin(self, call, slow_ms):
        self.call = call
        self._taker = threading.Thread(target=self._take, args=(slow_ms / 1000,), daemon=True)
        self._taker.start()

    def _take(self, pause):
        assert self.call is not None
        try:
            for message in self.call.messages():
                time.sleep(pause)
                with self._more:
                    self._messages.append(message)
                    self._more.notify()
        except ClientError:
            pass  # result() reports it

    def count(self, least):
        with self._more:
            self._more.wait_for(lambda: len(self._messages) >= least)
            return len(self._messages)

    def result(self, within_ms):
        if self.call is None:
            raise SidecarGoneError(None)
        result = self.call.result(None if within_ms is None else within_ms / 1000)
        self._taker.join()
        return result

    def seen(self):
        with self._more:
            return list(self._messages)


def described(error):
    """Return an error in the form in which the adapter prints it."""
    if isinstance(error, RemoteError):
        more = {"code": error.code, "kind": error.kind, "retryable": error.retryable, "data": error.data}
        return {"type": "remote", "message": error.message, **more}
    if isinstance(error, SidecarGoneError):
        return {"type": "gone", "message": str(error), "status": error.status}
    if isinstance(error, ProtocolViolationError):
        return {"type": "violation", "message": str(error)}
    return {"type": "timeout" if isinstance(error, TimeoutError) else "spawn", "message": str(error)}


def main():
    task = json.loads(sys.stdin.readline())
    adapter = Adapter(task["sidecar"])
    for number, step in enumerate(task["steps"]):
        try:
            told = getattr(adapter, step["do"])(step)
        except (ClientError, TimeoutError, OSError) as error:
            told = {"error": described(error)}
        print(json.dumps({"step": number, **told}), flush=True)


if __name__ == "__main__":
    main()
