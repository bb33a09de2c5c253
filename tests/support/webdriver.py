"""Everything for testing an app with a window: a display without a screen, WebKitGTK's driver, and a user's actions.

The driver starts the app and speaks W3C WebDriver. On Linux ``tauri-driver`` only starts it, with the variables below.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import ctypes.util
import http.client
import json
import os
import shutil
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

DRIVER = "WebKitWebDriver"
#: How long a page may take to show something: the machine may be busy, and torch has to be imported.
PATIENCE = 240
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_CHANGING = frozenset({"stale element reference", "element not interactable", "element click intercepted"})


@contextlib.contextmanager
def display() -> Iterator[str]:
    """Yield a separate display, as ``:7``."""
    readable, writable = os.pipe()
    command = ["Xvfb", "-displayfd", str(writable), "-screen", "0", "1280x900x24", "-nolisten", "tcp"]
    with tempfile.TemporaryFile() as said:  # no pipe of ours: whoever reads that would wait for a server left behind
        server = subprocess.Popen(command, pass_fds=[writable], stdout=said, stderr=said)
        os.close(writable)
        try:
            with os.fdopen(readable) as told:
                number = told.readline().strip()
            said.seek(0)
            assert number, f"Xvfb does not start: {said.read().decode(errors='replace')}"
            yield f":{number}"
        finally:
            server.terminate()
            server.wait()


class Refused(AssertionError):
    """The driver's answer is an error; ``kind`` is W3C's name for it."""

    def __init__(self, asked: str, answer: dict[str, str]) -> None:
        super().__init__(f"{asked}: {answer}")
        self.kind = answer["error"]


class Browser:
    """An app's page, controlled through the driver that started the app."""

    def __init__(self, app: Path, port: int, env: dict[str, str], driver: Sequence[str] = (DRIVER,)) -> None:
        env = {**env, "TAURI_AUTOMATION": "true", "TAURI_WEBVIEW_AUTOMATION": "true"}
        self._port = port
        self._driver = subprocess.Popen([*driver, f"--port={port}", "--host=127.0.0.1"], env=env)
        self._session = ""
        options = {"webkitgtk:browserOptions": {"binary": str(app), "args": []}}
        try:
            until("the driver listens", self._listens)
            opened = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": options}})
        except BaseException:
            self.close()
            raise
        self._session = f"/session/{opened['sessionId']}"

    def script(self, text: str, *arguments: object) -> Any:
        """Run a function's body in the page."""
        return self._ask("POST", "/execute/sync", {"script": text, "args": list(arguments)})

    def find(self, css: str, name: str | None = None) -> dict[str, str]:
        """Return the first visible element with this name (or a name that begins with it); wait until there is one."""
        found: list[dict[str, str]] = []

        def look() -> bool:
            found[:] = self.script(_FIND, css, name)
            return bool(found)

        self.until(f"{css} {name or ''} is shown", look)
        return found[0]

    def click(self, css: str, name: str | None = None) -> None:
        """Click it with the mouse; click again if the page changes meanwhile."""

        def clicked() -> bool:
            element = self.find(css, name)[_ELEMENT]
            try:
                self._ask("POST", f"/element/{element}/click", {})
            except Refused as error:
                if error.kind in _CHANGING:
                    return False
                raise
            return True

        self.until(f"{css} {name or ''} can be clicked", clicked)

    def write(self, css: str, text: str) -> None:
        """Replace a field's text in one go, as pasting does: the driver sometimes loses a key."""
        self.click(css)
        assert self.script(_PASTE, text), f"{css} takes no text"

    def drag(self, css: str, *points: tuple[float, float]) -> None:
        """Drag the mouse over an element; points are fractions of its size."""
        box = self.script(_BOX, self.find(css))
        moves: list[dict[str, Any]] = []
        for across, down in points:
            x, y = round(box[0] + across * box[2]), round(box[1] + down * box[3])
            moves.append({"type": "pointerMove", "duration": 50, "x": x, "y": y})
        acts = [moves[0], {"type": "pointerDown", "button": 0}, *moves[1:], {"type": "pointerUp", "button": 0}]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": acts}
        self._ask("POST", "/actions", {"actions": [mouse]})

    def text(self, css: str) -> str:
        """Return an element's text; empty if there is no such element."""
        return self.script("return document.querySelector(arguments[0])?.innerText ?? ''", css)

    def count(self, css: str) -> int:
        """Return how many there are."""
        return self.script("return document.querySelectorAll(arguments[0]).length", css)

    def until(self, what: str, holds: Callable[[], object]) -> None:
        """Wait until something is true of the page; a failure quotes the page's text."""
        try:
            until(what, holds)
        except AssertionError as error:
            said = "nothing"
            with contextlib.suppress(OSError, http.client.HTTPException, AssertionError):
                said = self.text("body")
            raise AssertionError(f"{error}\nThe page says:\n{said}") from error

    def reload(self) -> None:
        """Reload the page."""
        self._ask("POST", "/refresh", {})

    def windows(self) -> list[str]:
        """Return the app's windows."""
        return self._ask("GET", "/window/handles")

    def turn_to(self, window: str) -> None:
        """Switch to the page of this window."""
        self._ask("POST", "/window", {"handle": window})

    def screenshot(self, file: Path) -> None:
        """Save a picture of the page two frames from now, when what was requested has been painted."""
        self._ask("POST", "/execute/async", {"script": _PAINTED, "args": []})
        file.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def close(self) -> None:
        """End the driver; the app may still be running."""
        with contextlib.suppress(OSError, http.client.HTTPException, AssertionError):
            self._ask("DELETE", "")
        self._driver.terminate()
        try:
            self._driver.wait(10)
        except subprocess.TimeoutExpired:  # in a process namespace of its own it does not hear that
            self._driver.kill()
            self._driver.wait()

    def _listens(self) -> bool:
        assert self._driver.poll() is None, f"{DRIVER} has ended: {self._driver.returncode}"
        with contextlib.suppress(OSError):
            return self._ask("GET", "/status")["ready"]
        return False

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            text = None if body is None else json.dumps(body)
            where = path if path in ("/session", "/status") else self._session + path
            connection.request(method, where, text, {"content-type": "application/json"})
            answer = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(answer, dict) and "error" in answer:
            raise Refused(f"{method} {path}", answer)
        return answer


_BOX = "const {x, y, width, height} = arguments[0].getBoundingClientRect(); return [x, y, width, height]"
_PASTE = """
document.activeElement.select();
return document.execCommand("insertText", false, arguments[0]);
"""
_PAINTED = "requestAnimationFrame(() => requestAnimationFrame(() => arguments[0]()))"
_FIND = """
const [css, name] = arguments;
const named = (element) => element.getAttribute("aria-label") ?? element.innerText;
const shown = (element) => element.getClientRects().length > 0 && !element.disabled;
return [...document.querySelectorAll(css)]
  .filter((element) => shown(element) && (name === null || named(element).trim().startsWith(name)));
"""


def until(what: str, holds: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until a condition holds; it is checked repeatedly."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def close_window(display_name: str, title: str) -> None:
    """Ask a window to close, as a window manager does for the user's click."""
    library = ctypes.util.find_library("X11")
    assert library
    x = ctypes.CDLL(library)
    for function in (x.XOpenDisplay, x.XDefaultRootWindow, x.XInternAtom):
        function.restype = ctypes.c_void_p if function is x.XOpenDisplay else ctypes.c_ulong
    handle = ctypes.c_void_p(x.XOpenDisplay(display_name.encode()))
    try:
        window = _window(x, handle, x.XDefaultRootWindow(handle), title.encode())
        assert window, f"there is no window {title}"
        protocols, delete = (x.XInternAtom(handle, name, False) for name in (b"WM_PROTOCOLS", b"WM_DELETE_WINDOW"))
        event = _ClientMessage(type=33, window=window, message_type=protocols, format=32)
        event.data[0] = delete
        x.XSendEvent(handle, ctypes.c_ulong(window), False, ctypes.c_long(0), ctypes.byref(event))
    finally:
        x.XCloseDisplay(handle)


class _ClientMessage(ctypes.Structure):
    """The part of an XEvent that a message uses; the rest is padding."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("serial", ctypes.c_ulong),
        ("send_event", ctypes.c_int),
        ("display", ctypes.c_void_p),
        ("window", ctypes.c_ulong),
        ("message_type", ctypes.c_ulong),
        ("format", ctypes.c_int),
        ("data", ctypes.c_long * 5),
        ("padding", ctypes.c_long * 12),
    ]


def _window(x: ctypes.CDLL, handle: ctypes.c_void_p, at: int, title: bytes) -> int:
    """Return the largest window with this title at or below another one, or 0."""
    name = ctypes.c_char_p()
    if x.XFetchName(handle, ctypes.c_ulong(at), ctypes.byref(name)) and name.value == title:
        return at
    root, parent, count = ctypes.c_ulong(), ctypes.c_ulong(), ctypes.c_uint()
    children = ctypes.POINTER(ctypes.c_ulong)()
    places = [ctypes.byref(one) for one in (root, parent, children, count)]
    x.XQueryTree(handle, ctypes.c_ulong(at), *places)
    found = (_window(x, handle, children[one], title) for one in range(count.value))
    return next((window for window in found if window), 0)


def missing() -> list[str]:
    """Return the required programs that are missing."""
    return [program for program in ("Xvfb", DRIVER) if shutil.which(program) is None]
