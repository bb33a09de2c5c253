"""What protocol/README.md shows really happens: its exchanges and its Python are run with the fake engine."""

import json
import re
import sys
import textwrap
from pathlib import Path

import pytest
from PIL import Image

from support.host import manifest

PAGE = Path(__file__).parents[2] / "protocol" / "README.md"
FOLDER = "/Users/a/Pictures"


def exchange(name):
    """Return the lines between a mark and its end: what is sent, and the answers by id."""
    block = PAGE.read_text("utf-8").split(f"<!-- {name}:begin -->")[1].split(f"<!-- {name}:end -->")[0]
    lines = [line.partition(" ") for line in block.splitlines() if line[:2] in ("→ ", "← ")]
    sent = [json.loads(line) for arrow, _, line in lines if arrow == "→"]
    came = [json.loads(line) for arrow, _, line in lines if arrow == "←"]
    return sent, {message["id"]: message["result"] for message in came if "id" in message}


def shape(value):
    """Return the names and types of an example's members; for an array, those of its first entry."""
    if isinstance(value, dict):
        return {name: shape(member) for name, member in value.items()}
    if isinstance(value, list):
        return [shape(entry) for entry in value[:1]]
    return float if type(value) is int else type(value)


def has(real, shown):
    """Return whether ``real`` has at least what is ``shown``."""
    if isinstance(shown, dict):
        return isinstance(real, dict) and all(name in real and has(real[name], part) for name, part in shown.items())
    if isinstance(shown, list):
        return isinstance(real, list) and (not shown or (bool(real) and has(real[0], shown[0])))
    return real == shown


def replay(host, messages, answers):
    for message in messages:
        params = json.loads(json.dumps(message.get("params", {})).replace(FOLDER, str(host.folder)))
        if message["method"] == "initialize":
            members = {name: params[name] for name in ("manifest", "grants")}
            result = host.initialize(**members)
        elif "id" not in message:
            continue
        else:
            params.pop("channel", None)
            result = host.call(message["method"], params, timeout=30)
        assert has(shape(result), shape(answers[message["id"]])), message["method"]


def test_the_session_of_the_page_is_answered_as_it_shows(hosts):
    sent, answers = exchange("transcript")
    assert [message["method"] for message in sent] == ["initialize", "image.generate", "shutdown", "exit"]
    replay(hosts.spawn(), sent, answers)


def test_the_edit_of_the_page_is_answered_as_it_shows(hosts):
    sent, answers = exchange("edit")
    assert [message["method"] for message in sent] == ["image.edit"]
    host = hosts.spawn()
    for name in ("red.png", "mask.png"):
        Image.new("RGB", (128, 128), "red").save(host.folder / name)
    app = manifest("pocket", modalities=("text-to-image", "image-to-image"))
    host.initialize(manifest=app, grants={"user-folder": str(host.folder)})
    replay(host, sent, answers)
    assert "green.png" in host.files()


@pytest.mark.slow
def test_the_python_of_the_page_runs(tmp_path, capsys):
    page = PAGE.read_text("utf-8")
    codes = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert ["async with" in code for code in codes] == [False, True]
    command = repr([sys.executable, "-m", "locara_sidecar", "serve", "--engine", "fake"])
    for code in codes:
        assert '["locara-sidecar", "serve"]' in code
        code = code.replace('["locara-sidecar", "serve"]', command).replace("/home/a/Pictures/App", str(tmp_path))
        if "async with" in code:
            code = f"async def body():\n{textwrap.indent(code, '    ')}\nimport anyio\nanyio.run(body)"
        shown = []
        exec(code, {"manifest": manifest("pocket"), "show": lambda *step, shown=shown: shown.append(step)})
        assert shown[-1][0] <= 1
        assert Path(capsys.readouterr().out.strip()).parent == tmp_path
