"""What the pages promise a reader: their programs run, their commands exist, their links lead somewhere."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from locara_sidecar.cli import arguments
from locara_sidecar.machine.machine import GIB, Machine
from locara_sidecar.models import catalogue, fit

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / name for name in ("README.md", "protocol/README.md", "tests/MEASURED.md", ".github/CONTRIBUTING.md")]
SERVE = f'[{sys.executable!r}, "-m", "locara_sidecar", "serve", "--engine", "fake"]'


def program(language):
    (code,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return code


def test_the_python_host_draws(tmp_path):
    code = program("python").replace('["locara-sidecar", "serve"]', SERVE).replace("/home/a/Pictures", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "denoising 1" in done.stdout
    assert Path(done.stdout.splitlines()[-1]).parent == tmp_path


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_the_node_host_draws_and_its_daemon_ends(tmp_path):
    command = f'{sys.executable!r}, ["-m", "locara_sidecar", "serve", "--engine", "fake", "--log-level", "error"]'
    code = program("javascript").replace('"locara-sidecar", ["serve"]', command)
    (tmp_path / "host.mjs").write_text(code.replace("/home/a/Pictures", str(tmp_path)))
    done = subprocess.run(["node", str(tmp_path / "host.mjs")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "denoising 1" in done.stdout
    assert Path(done.stdout.splitlines()[-1]).parent == tmp_path


def test_the_rust_host_is_the_example_that_the_tests_of_the_crate_run():
    example = (ROOT / "protocol" / "rust" / "examples" / "readme.rs").read_text()
    assert example.partition("\n\n")[2] == program("rust")


def test_the_page_of_a_tauri_app_is_the_example_that_the_plugins_tests_run():
    """guest.test.mjs compiles the example's page, and test-embed draws with it in a window."""
    minimal = ROOT / "packaging" / "tauri" / "examples" / "minimal"
    page = [line.strip() for line in (minimal / "src" / "main.ts").read_text().splitlines()]
    first, *lines = [line.partition(" //")[0].strip() for line in program("ts").splitlines() if line]
    names, module = re.fullmatch(r"import \{ (.*) \} from (.*);", first).groups()
    known, same = re.fullmatch(r"import \{ (.*) \} from (.*);", page[0]).groups()
    assert module == same
    assert set(names.split(", ")) <= set(known.split(", "))
    start = page.index(lines[0])
    assert page[start : start + len(lines)] == lines
    shown = {
        "src/main.rs": ".plugin(tauri_plugin_locara_diffusion::init())",
        "capabilities/default.json": '"locara-diffusion:default"',
    }
    for file, code in shown.items():
        assert code in (minimal / "src-tauri" / file).read_text()
        assert f"`{code}`" in README


@pytest.mark.parametrize("line", re.findall(r"^    (?:HF_TOKEN=… )?(locara-sidecar .*)", README, re.MULTILINE))
def test_every_command_is_one(line):
    words = shlex.split(line.partition("#")[0])[1:]
    if words[0] != "doctor":
        arguments.parser().parse_args(words)  # it exits if it is not a command


FAMILIES = {
    "SDXL Lightning": ["sdxl-lightning"],
    "SD 3.5 Medium": ["sd3.5-medium"],
    "SD 3.5 Large": ["sd3.5-large"],
    "FLUX.2 [klein] 4B": ["flux.2-klein-4b"],
    "Z-Image-Turbo": ["z-image-turbo"],
    "FLUX.1 (12 B)": ["flux.1-schnell", "flux.1-dev", "flux.1-kontext-dev"],
}


@pytest.mark.parametrize("name", FAMILIES)
def test_which_model_fits_a_machine_is_what_the_plan_predicts(name):
    """The table assumes that all of the machine's memory is free."""
    sizes = re.search(r"^\| \| Mac ([\d |]+) \| GPU ([\d |]+) \|$", README, re.MULTILINE)
    assert sizes is not None
    (row,) = re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", README, re.MULTILINE)
    for model in FAMILIES[name]:
        predicted = []
        for kind, engine, sizes_of in (("unified", "mlx", sizes[1]), ("gpu", "torch", sizes[2])):
            for size in sizes_of.split(" | "):
                machine = Machine(kind=kind, total=int(size) * GIB, available=int(size) * GIB)
                best = fit.recommend(fit.table(catalogue.load().get(model), machine, [engine]))
                bits = "–" if best is None else {"none": "full", "8bit": "8 bits", "4bit": "4 bits"}[best.quantization]
                predicted.append(bits + (", tight" if best is not None and best.fit == "tight" else ""))
        assert row.split(" | ") == predicted, model
    assert (sizes[1], sizes[2]) == ("8 | 16 | 24 | 32 | 64", "8 | 12 | 16 | 24")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page if not path else page.parent / path
        assert file.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]
            assert anchor in slugs, target


def test_the_page_on_a_package_index_needs_no_file_beside_it():
    """The build puts the substituted text into the metadata; the plugin hatch-fancy-pypi-readme does it with re.sub."""
    hooks = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]["hooks"]
    hook = hooks["fancy-pypi-readme"]
    [fragment] = hook["fragments"]
    text = before = (ROOT / fragment["path"]).read_text()
    for change in hook["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    assert re.findall(r"!\[|\]\((?!https?:|#)", text) == []
    assert "One picture appears" not in text
    assert "What changed: `CHANGELOG.md`" in text
    assert "its card (`sidecar/locara_sidecar/models/pocket/MODEL_CARD.md` in the source)" in text
    assert len(before.splitlines()) - len(text.splitlines()) < 6


def test_the_first_page_is_short():
    assert len(README.splitlines()) <= 200
