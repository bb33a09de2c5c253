"""Tables as a person reads them, at 80 columns and through a pipe, and the last line of doctor."""

import re
import sys

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from locara_sidecar.cli.commands import doctor
from locara_sidecar.cli.output import tables
from locara_sidecar.cli.output.console import Console as OwnConsole
from locara_sidecar.machine import engine_choice
from locara_sidecar.machine.machine import Machine
from locara_sidecar.models import catalogue
from locara_sidecar.models.operations import describe
from support.played_terminal import PlayedTerminal

ENGINE = Machine(kind="ram", total=12 * 10**9, available=9 * 10**9, reserved=0)


@pytest.fixture
def models():
    known = catalogue.load()
    return describe(known, known, {"torch": ENGINE}, ["torch"])


def lines(table, width):
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


def test_at_80_columns_nothing_is_cut_off_and_ids_are_in_one_piece(models):
    told = lines(tables.of_list(models, ["torch"]), 80)
    assert max(map(len, told)) <= 80
    assert "…" not in "\n".join(told)
    assert [line.split()[0] for line in told if line and not line.startswith((" ", "─"))][1:] == [m.id for m in models]
    assert "Fits torch" in "\n".join(told[:2])


def test_in_a_pipe_each_model_is_one_line(models):
    told = lines(tables.of_list(models, ["torch"]), 10_000)
    rows = {line.split()[0]: line for line in told[3:]}
    assert list(rows) == [model.id for model in models]
    for model in models:
        assert model.license.removesuffix(" License") in rows[model.id]
        assert rows[model.id].split()[1] == ("yes" if model.installed else "no")
        assert rows[model.id].split()[-2:] == ["yes" if each else "no" for each in (model.commercial_use, model.gated)]


def test_what_fits_says_how(models):
    rows = {line.split()[0]: line for line in lines(tables.of_list(models, ["torch"]), 10_000)[3:]}
    for model in models:
        row = model.recommended
        words = "no " if row is None else {"none": "yes", "8bit": "in 8 bits", "4bit": "in 4 bits"}[row.quantization]
        tight = row is not None and row.fit == "tight"
        assert ("tight" in rows[model.id]) == tight
        assert tight or words in rows[model.id]
    assert {model.recommended.quantization for model in models if model.recommended} > {"none"}, "several cases"


def test_how_to_get_a_model_is_what_can_be_typed(models):
    ways = {model.id: tables.how_to_get(model) for model in models}
    assert ways["pocket"] == []
    assert ways["sdxl-lightning"] == ["locara-sidecar models download sdxl-lightning"]
    first, second, *_ = ways["flux.1-dev"]
    assert "black-forest-labs/FLUX.1-dev" in first
    assert second == "HF_TOKEN=… locara-sidecar models download flux.1-dev"


def test_a_long_path_stays_in_one_piece_and_words_are_wrapped(tmp_path):
    path = "/a" * 70
    told = [("where", path), ("why", "word " * 40)]
    show = f"from locara_sidecar.cli.output.console import Console; Console().facts({told})"
    terminal = PlayedTerminal([sys.executable, "-c", show], {}, size=(80, 30))
    try:
        status, shown = terminal.end()
    finally:
        terminal.close()
    first, *rest = shown.decode().splitlines()
    assert (status, first) == (0, f"where       {path}")
    assert all(len(line) <= 80 and re.match(r"(why|   )         word", line) for line in rest)


# --- doctor ---------------------------------------------------------------------------------------


def state(tmp_path, **more):
    engines = [{"name": "torch", "available": True, "reason": "Installed."}]
    sandbox = {"enforced": True, "kind": "landlock", "reason": "All was blocked."}
    return {"engines": engines, "sandbox": sandbox, "cacheRoot": str(tmp_path / "a" / "b"), **more}


def test_doctor_finds_nothing_wrong_where_nothing_is(tmp_path):
    assert list(doctor.problems(state(tmp_path), "auto")) == []


def test_doctor_says_the_worst_first_and_what_to_type(tmp_path):
    (tmp_path / "file").touch()
    engines = [{"name": "torch", "available": False, "reason": "Not installed."}, {"name": "fake", "available": True}]
    sandbox = {"enforced": False, "kind": "none", "reason": "There is none here."}
    sick = state(tmp_path, engines=engines, sandbox=sandbox, cacheRoot=str(tmp_path / "file"))
    first, second, third = doctor.problems(sick, "auto")
    assert f"pip install 'locara-sidecar[{engine_choice.preferred()[0]}]'" in first
    assert f"{tmp_path / 'file'} is a file" in second
    assert "--cache-dir" in second
    assert third.endswith("There is none here.")


def test_doctor_says_that_the_engine_that_was_named_is_not_there(tmp_path):
    engines = [
        {"name": "torch", "available": True, "reason": "Installed."},
        {"name": "mlx", "available": False, "reason": "Not installed: mlx. Install locara-sidecar[mlx]."},
    ]
    (told,) = doctor.problems(state(tmp_path, engines=engines), "mlx")
    assert "locara-sidecar[mlx]" in told
    assert list(doctor.problems(state(tmp_path, engines=engines), "auto")) == []


def test_doctor_says_that_the_cache_may_not_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: path != tmp_path)
    (told,) = doctor.problems(state(tmp_path), "auto")
    assert "is not writable" in told


@pytest.mark.parametrize(
    ("problems", "last"),
    [
        ([], "No problems found."),
        (["Type this."], "Type this."),
        (["Type this.", "b", "c"], "Type this. (And 2 more: "),
    ],
)
def test_the_last_line_is_what_is_wrong(tmp_path, capsys, problems, last):
    platform = {"system": "Linux", "release": "6", "machine": "x86_64", "cpus": 2, "python": "3.11"}
    memory = {"total": 1 << 34, "available": 1 << 33}
    info = state(tmp_path, platform=platform, memory=memory, version="1", models=[], problems=problems)
    doctor._print(OwnConsole(), info)
    assert capsys.readouterr().out.splitlines()[-1].startswith(last)


STRANGE = "a\x1b]0;title\x07b\x1b[2Jc\x9b1A\rd\x08\u202ee"
"""A title, a cleared screen, cursor up as an 8-bit control, an overwritten line, right-to-left text."""


def harmful(text):
    """Return the parts of a text that a terminal would obey, except for the colours that rich writes."""
    return re.findall("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", re.sub(r"\x1b\[[\d;]*m", "", text))


@pytest.mark.parametrize("coloured", [False, True])
def test_no_word_of_an_engine_or_a_model_commands_the_terminal(capsys, monkeypatch, coloured):
    console = OwnConsole()
    console.interactive = coloured
    monkeypatch.setenv("TERM", "xterm-256color")
    console.line(STRANGE)
    console.error(STRANGE)
    table = Table(STRANGE)
    table.add_row(Text(STRANGE, "green"))
    console.table(table)
    console.facts([("device", STRANGE), (STRANGE, STRANGE), ("more", table)])
    if coloured:
        monkeypatch.setattr(console, "look", lambda: None)
        for fraction in (None, 0.5):
            assert not harmful(console._status(fraction, STRANGE))
    else:
        console.live(None, 0.5, STRANGE)
    told = capsys.readouterr()
    for text in (told.out, told.err):
        assert not harmful(text)
        assert "title" in text
    assert ("\x1b[" in told.out) == coloured, "rich's own colours are there"
