"""README.md's "Embed in Tauri", followed step by step in an empty folder: from nothing to a picture in a window.

Also how to add the components to a project, as described in ui/README.md.

``make test-embed`` runs it; it needs the npm registry and crates.io, because step 1 does.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.installed_app import App
from support.webdriver import display, missing

ROOT = Path(__file__).parents[2]
TARGET = os.environ.get("LOCARA_EMBED_TARGET", "")
PARTS = ("LICENSE", "protocol", "packaging/tauri")

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not TARGET, reason="make test-embed names the folder in which cargo builds"),
]


def steps():
    """Each step's commands, and its blocks of code."""
    readme = (ROOT / "packaging/tauri/README.md").read_text()
    section = readme.split("## Embed in Tauri\n")[1].split("\n## ")[0]
    found = []
    for text in re.split(r"^\*\*\d\. ", section, flags=re.MULTILINE)[1:]:
        commands = [line[4:] for line in text.split("```")[0].splitlines() if line.startswith("    ")]
        found.append((commands, re.findall(r"^```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)))
    return found


def checkout(folder):
    """The parts of this checkout that the steps use, without what was built in it."""
    listed = subprocess.run(["git", "ls-files", "-z", *PARTS], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    return folder


def changed(file, change):
    """Rewrite a JSON file."""
    whole = json.loads(file.read_text())
    change(whole)
    file.write_text(json.dumps(whole, indent=2))


def test_the_steps_lead_from_an_empty_folder_to_a_picture_in_a_window(tmp_path):
    assert not missing(), f"not here: {', '.join(missing())}"
    install, manifest, config, capability, plugin, page, start = steps()
    source = checkout(tmp_path / "locara")
    empty = tmp_path / "empty"
    empty.mkdir()
    app = empty / "my-app"

    def run(command, folder):
        # npm asks whether it may fetch create-tauri-app
        env = os.environ | {"CARGO_TARGET_DIR": TARGET, "npm_config_yes": "true"}
        subprocess.run(["bash", "-euc", command], cwd=folder, env=env, check=True)

    run("\n".join(install[0]).replace("/path/to/locara", str(source)), empty)
    (app / "locara.json").write_text(manifest[1][0])
    security, resources, dependency = config[1]

    def configure(whole):
        whole["app"] |= json.loads(f"{{{security}}}")
        whole["bundle"] |= json.loads(f"{{{resources}}}")

    changed(app / "src-tauri/tauri.conf.json", configure)
    cargo = app / "src-tauri/Cargo.toml"
    text, times = re.subn(r"^tauri = .*\n", dependency, cargo.read_text(), flags=re.MULTILINE)
    assert times == 1, cargo.read_text()
    cargo.write_text(text)
    changed(
        app / "src-tauri/capabilities/default.json", lambda whole: whole.update(json.loads(f"{{{capability[1][0]}}}"))
    )
    library = app / "src-tauri/src/lib.rs"
    begins = "tauri::Builder::default()\n"
    assert begins in library.read_text()
    library.write_text(library.read_text().replace(begins, begins + plugin[1][0]))
    html = (app / "index.html").read_text()
    (app / "index.html").write_text(re.sub("<body>.*</body>", f"<body>\n{page[1][0]}</body>", html, flags=re.DOTALL))
    (app / "src/main.ts").write_text(page[1][1])

    # the last step runs it in development; a window that a test can look into is one that the driver has started
    assert start[0][0].endswith("npm run tauri dev")
    # the newest package and crate are not always of one minor version, which a build, unlike dev, refuses
    run("npm run tauri build -- --debug --no-bundle --ignore-version-mismatches", app)
    with display() as screen:
        window = App(tmp_path / "home", screen, Path(TARGET, "debug/my-app"), json.loads(manifest[1][0]))
        try:
            window.page.script(_WATCH)
            window.page.click("button", "Draw")
            window.page.until("it is finished", lambda: window.page.text("output") == "finished")
            window.page.until("the file is shown", lambda: window.page.script(_SHOWN) == ["asset://localhost/", 128])
            assert window.page.script("return window.shown"), "no preview was shown"
            assert len(list(window.pictures.iterdir())) == 1
        finally:
            window.close()


def test_the_components_are_built_in_an_empty_react_project(tmp_path):
    readme = (ROOT / "packaging/tauri/ui/README.md").read_text()
    section = readme.split("## Installing\n")[1].split("\n## ")[0]
    pack, install = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    (page,) = re.findall(r"^```tsx\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    source = checkout(tmp_path / "locara")

    def run(command, folder):
        subprocess.run(["bash", "-euc", command], cwd=folder, check=True)

    for package in ("protocol/typescript", "packaging/tauri/ui"):
        run(pack, source / package)
    run("npm create --yes vite@latest picker -- --template react-ts --no-interactive", tmp_path)
    app = tmp_path / "picker"
    run(install.replace("/path/to/locara", str(source)), app)
    (app / "src/App.tsx").write_text(page)
    main = app / "src/main.tsx"
    main.write_text(main.read_text().replace("import App from", "import { App } from"))
    run("npm run build", app)
    built = "".join(file.read_text() for file in (app / "dist/assets").iterdir())
    assert "locara-picker" in built
    assert "models_list" in built or "models.list" in built


#: Counts the previews that the page shows: each is there for a moment only.
_WATCH = """
window.shown = 0;
const image = document.querySelector("img");
const look = () => { window.shown += image.src.startsWith("data:"); };
new MutationObserver(look).observe(image, { attributeFilter: ["src"] });
"""
_SHOWN = """
const image = document.querySelector("img");
return [image.src.slice(0, 18), image.complete ? image.naturalWidth : 0];
"""
