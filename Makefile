# Everything that people and CI run. Each target sets up what it needs in .venv, once.

# a machine that forbids bytecode would compile all our modules anew in each of the thousands of processes that tests start
unexport PYTHONDONTWRITEBYTECODE

comma := ,
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do command -v $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MEASURE := PYTHONPATH=tests:packaging $(BIN)/python
# the tests compare both engines wherever both exist; there is no MLX for a Mac with Intel (ENGINES=mlx sets up less)
ENGINES ?= $(if $(filter Darwin-x86_64,$(shell uname -s)-$(shell uname -m)),torch,torch$(comma)mlx)
# worker processes of the tests; each takes up to 1.5 GB
JOBS ?= 2
TESTS := $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal
PROMPT ?= a smiling sun on a purple background

# the files in which platforms can differ for pyright: the others take two thirds of its time
PLATFORM_MODULES := os|signal|socket|select|fcntl|resource|termios|pwd|mmap|psutil|multiprocessing
PLATFORM_FILES = $(shell grep -rlE "^ *(import|from) ($(PLATFORM_MODULES))\b|sys\.platform" protocol sidecar packaging tests/bench tests/campaigns tests/faults tests/fullsize tests/macos tests/support tests/wheels --include=*.py | grep -vE "/test_|conftest|protocol/examples|node_modules|support/evil")

# what an app ships is built with these, and for MLX unless ENGINE says otherwise
ENGINE ?= mlx
BUNDLE_TOOLS := build/bundle-tools
BUNDLE = $(firstword $(wildcard dist/locara-sidecar-*-*-*))

# cargo's target folder is outside the tree, so that a fresh clone finds what was compiled before
RUST_TARGET ?= $(or $(CARGO_TARGET_DIR),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/locara/rust-target)
NODE_READY := protocol/typescript/node_modules/.ready
UI := packaging/tauri/ui
UI_READY := $(UI)/node_modules/.ready
TAURI_NODE_READY := packaging/tauri/node_modules/.ready
STUDIO := packaging/tauri/examples/studio
STUDIO_READY := $(STUDIO)/node_modules/.ready
# the app as it is installed: Tauri finds resources beside bin, and in cargo's target folder only if that is called target
STUDIO_INSTALLED := build/studio/usr
# what Debian and its like must have for a Tauri app to be compiled, and to be looked at without a screen
TAURI_PACKAGES := libwebkit2gtk-4.1-dev build-essential libssl-dev librsvg2-dev libayatana-appindicator3-dev
STUDIO_PACKAGES := xvfb webkit2gtk-driver
# where there is no network, or another apt-get at work, it gives up within minutes
APT_GET := DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=30 -o DPkg::Lock::Timeout=120
INSTALL_PACKAGES := $(APT_GET) update && $(APT_GET) install -y --no-install-recommends

.PHONY: help setup demo test test-slow test-typescript test-ui screenshots test-rust test-tauri tauri-tools tauri-pages tauri-program tauri-packages ui-packages studio test-studio test-embed lint types generated schemas fixtures check conformance bench bench-layout bench-mlx-work bench-operations bench-pace bench-quantization bench-first-picture bench-quality bench-shares bench-speed bench-waiting fullsize fullsize-accelerator fullsize-mlx fullsize-prepared fullsize-strips bench-download campaign-capability campaign-daemon campaign-hostile-engine campaign-soak campaign-store pictures planted-faults transcript clean campaign-lies resolves check-mac bundle bundle-lock test-bundle bench-bundle check-wheels studio-package test-package
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*##/ { printf "%-24s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with everything in it

$(READY): pyproject.toml packaging/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; set PYTHON=/path/to/python"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c packaging/constraints.txt uv
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode -c packaging/constraints.txt -e '.[$(ENGINES),dev]'
	touch $@

# nothing of these gets into a bundle
$(BUNDLE_TOOLS)/.ready: $(READY) packaging/bundle/tools.txt
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(BUNDLE_TOOLS)
	$(BIN)/uv pip install --quiet --python $(BUNDLE_TOOLS)/bin/python --require-hashes -r packaging/bundle/tools.txt
	touch $@

bundle: $(BUNDLE_TOOLS)/.ready ## make the folder that an app ships, dist/locara-sidecar-…; ENGINE=mlx, torch or none (FLAGS="--python FOLDER")
	PYTHONPATH=packaging $(BIN)/python -m bundle.build --engine $(ENGINE) --tools $(BUNDLE_TOOLS) $(FLAGS)

bundle-lock: $(READY) ## resolve anew what a bundle holds, from pyproject.toml and packaging/constraints.txt
	PYTHONPATH=packaging $(BIN)/python -m bundle.lock --uv $(BIN)/uv

test-bundle: bundle ## build it, and test it where no Python is; the strictest tests need root
	LOCARA_BUNDLE=$(abspath $(BUNDLE)) LOCARA_BUNDLE_TOOLS=$(abspath $(BUNDLE_TOOLS)) $(BIN)/python -m pytest -q tests/bundled

bench-bundle: $(READY) ## compare the start of the built folder with that of .venv, alternately (FLAGS="--rounds N")
	$(MEASURE) -m bench.bundle $(BUNDLE) $(FLAGS)

check-wheels: $(BUNDLE_TOOLS)/.ready ## build sdist and wheel; check, install and run them with every Python that is here
	$(BIN)/python tests/wheels/check.py --tools $(BUNDLE_TOOLS)

demo: $(READY) ## draw PROMPT with the embedded model, live in the terminal
	@$(BIN)/locara-sidecar demo '$(subst ','\'',$(value PROMPT))'

test: $(READY) ## run the quick tests
	$(TESTS) -m 'not slow'

test-slow: $(READY) ## run the tests that are marked slow
	$(TESTS) -m slow --durations=12 --durations-min=20

test-typescript: $(READY) $(NODE_READY) ## types, lint and tests of the TypeScript package, other clients, OpenRPC; needs Node 20 and npm
	cd protocol/typescript && LOCARA_SIDECAR=$(abspath $(BIN))/locara-sidecar npm run --silent check

# npm keeps what it downloads in its own cache outside the tree
$(NODE_READY): protocol/typescript/package.json protocol/typescript/package-lock.json
	@command -v node >/dev/null && command -v npm >/dev/null || { echo "Node 20 or later with npm is needed for the TypeScript package (Debian: apt-get install nodejs npm); the rest works without"; exit 1; }
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' || { echo "Node 20 or later is needed for the TypeScript package; this is $$(node --version)"; exit 1; }
	cd protocol/typescript && npm ci --prefer-offline
	touch $@

CHROMIUM_HERE = $(or $(CHROMIUM),$(shell for p in chromium chromium-browser google-chrome; do command -v $$p && break; done))
test-ui screenshots: export CHROMIUM := $(CHROMIUM_HERE)
test-ui screenshots: export LOCARA_SIDECAR := $(abspath $(BIN))/locara-sidecar
test-ui: $(READY) $(UI_READY) ## lint, types and tests of the picker UI; needs Node 20 with npm, and Chromium (without: BROWSER=no)
	@test -n "$${CHROMIUM}$(BROWSER)" || { echo "Chromium is needed for the picker UI's tests (Debian: apt-get install chromium; CHROMIUM=/path names one; BROWSER=no leaves out what needs it)"; exit 1; }
	cd protocol/typescript && npm run --silent build
	cd $(UI) && npm run --silent check
	$(if $(filter no,$(BROWSER)),@echo "The picker UI's tests in Chromium were NOT run.",cd $(UI) && npm run --silent test:browser)

screenshots: $(READY) $(UI_READY) ## each state of the picker UI, light and dark, as pictures in SHOTS, a folder
	cd protocol/typescript && npm run --silent build
	cd $(UI) && SHOTS=$(abspath $(or $(SHOTS),/tmp/locara-ui-screenshots)) npm run --silent screenshots

$(UI_READY): $(NODE_READY) $(UI)/package.json $(UI)/package-lock.json $(UI)/.npmrc
	cd $(UI) && npm ci --prefer-offline
	touch $@

test-rust: export CARGO_TARGET_DIR := $(RUST_TARGET)
test-rust: export LOCARA_SIDECAR := $(abspath $(BIN))/locara-sidecar
test-rust: $(READY) ## format, lint, licences, tests and documentation of the Rust crate; needs Rust 1.88 with clippy and rustfmt
	@command -v cargo >/dev/null || { echo "Rust 1.88 or later with cargo is needed for the Rust crate; the rest works without"; exit 1; }
	cd protocol/rust && cargo fmt --check
	$(abspath $(BIN))/python protocol/rust/dependencies.py
	cd protocol/rust && cargo clippy --quiet --locked --all-targets -- -D warnings
	cd protocol/rust && RUSTDOCFLAGS="-D warnings" cargo doc --quiet --locked --no-deps
	cd protocol/rust && cargo test --quiet --locked

# the page's package is checked against the built one of protocol/typescript, to which npm makes a link
$(TAURI_NODE_READY): $(NODE_READY) packaging/tauri/package.json packaging/tauri/package-lock.json
	cd packaging/tauri && npm ci --prefer-offline --ignore-scripts
	touch $@

$(STUDIO_READY): $(UI_READY) $(TAURI_NODE_READY) $(STUDIO)/package.json $(STUDIO)/package-lock.json $(STUDIO)/.npmrc
	cd $(STUDIO) && npm ci --prefer-offline --ignore-scripts
	touch $@

test-tauri studio test-studio tauri-program studio-package: export CARGO_TARGET_DIR := $(RUST_TARGET)
test-tauri studio test-studio test-embed: export LOCARA_SIDECAR := $(abspath $(BIN))/locara-sidecar
tauri-tools: $(READY) $(STUDIO_READY)
	@command -v cargo >/dev/null || { echo "Rust 1.88 or later with cargo is needed for the Tauri plugin; the rest works without"; exit 1; }
	@test "$$(uname -s)" != Linux || pkg-config --exists webkit2gtk-4.1 || { echo "WebKitGTK's headers are needed for the Tauri plugin (Debian: apt-get install $(TAURI_PACKAGES)); the rest works without"; exit 1; }

# the pages are in the programs; that of the minimal app is made where its README is followed
tauri-pages: tauri-tools
	cd protocol/typescript && npm run --silent build
	cd packaging/tauri && npm run --silent build
	cd $(UI) && npm run --silent build
	cd $(STUDIO) && npm run --silent build
	mkdir -p packaging/tauri/examples/minimal/dist

# with all targets, as the tests have it: Tauri would be compiled twice otherwise
tauri-program: tauri-pages
	cd packaging/tauri && cargo build --quiet --locked --workspace --all-targets
	mkdir -p $(STUDIO_INSTALLED)/bin $(STUDIO_INSTALLED)/lib/studio
	ln -f $(RUST_TARGET)/debug/studio $(STUDIO_INSTALLED)/bin/ || cp $(RUST_TARGET)/debug/studio $(STUDIO_INSTALLED)/bin/
	cp $(STUDIO)/locara.json $(STUDIO_INSTALLED)/lib/studio/

test-tauri: tauri-program ## the Tauri plugin, its page's package and the example apps; needs Rust 1.88, Node 20 and, on Linux, WebKitGTK's headers
	cd packaging/tauri && npm run --silent lint && npm run --silent test
	cd packaging/tauri && cargo fmt --all --check
	cd packaging/tauri && cargo test --quiet --locked --workspace
	cd packaging/tauri && cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
	cd packaging/tauri && RUSTDOCFLAGS="-D warnings" cargo doc --quiet --locked --no-deps
	@git diff --exit-code --stat -- packaging/tauri/permissions || { echo "The permissions are not those of src/commands.rs: commit what the build has written"; exit 1; }

studio: tauri-program ## build and start the example app, with the sidecar of this checkout
	$(STUDIO_INSTALLED)/bin/studio

test-studio: tauri-program ## the example app in a real window, on a display of its own (SHOTS=folder keeps screenshots); Linux
	$(if $(filter Linux,$(shell uname -s)),LOCARA_STUDIO=$(abspath $(STUDIO_INSTALLED)/bin/studio) LOCARA_SHOTS=$(if $(SHOTS),$(abspath $(SHOTS))) $(BIN)/python -m pytest -q tests/studio,@echo "The example app was NOT tested in a window: that takes Linux.")

# what tauri.conf.json leaves out, because it is there only once make bundle has made it; what makes an AppImage changes
# each library below usr/lib, and the sidecar's would not be as built
FOLDER = "../../../../../$(BUNDLE)"
FILES_LINUX = {"deb": {"files": {"/usr/lib/studio/locara-sidecar": $(FOLDER)}}, "appimage": {"files": {"/usr/share/studio/locara-sidecar": $(FOLDER)}}}
FILES = $(if $(filter Linux,$(shell uname -s)),"linux": $(FILES_LINUX),"resources": {$(FOLDER): "locara-sidecar"})
PACKAGES ?= deb
studio-package: bundle tauri-pages ## the example app as its user installs it, with the folder of make bundle in it (PACKAGES=deb,appimage,…); release build
	cd $(STUDIO) && npm run --silent tauri -- build --ci --bundles $(PACKAGES) --config '{"bundle": {$(FILES)}}' -- --locked

PACKAGED = $(if $(filter $(1),$(subst $(comma), ,$(PACKAGES))),$(firstword $(wildcard $(RUST_TARGET)/release/bundle/$(1)/studio_*.$(2))))
test-package: studio-package ## install the .deb (PACKAGES=appimage: start the AppImage) on a Debian without Python, made by debootstrap, and draw there, in a window, too; needs root
	LOCARA_DEB=$(call PACKAGED,deb,deb) LOCARA_APPIMAGE=$(call PACKAGED,appimage,AppImage) $(BIN)/python -m pytest -q -rs tests/studio/test_package.py tests/studio/test_appimage.py

# from the registries' newest versions, so not part of check
test-embed: tauri-tools ## follow README's "Embed in Tauri" in an empty folder, from nothing to a picture in a window; needs the registries; Linux
	LOCARA_EMBED_TARGET=$(RUST_TARGET) $(BIN)/python -m pytest -q tests/studio/test_embed.py

ui-packages: ## install what test-ui needs from Debian, if it is missing
	@test -n "$(CHROMIUM_HERE)" || { $(INSTALL_PACKAGES) chromium; }

tauri-packages: ## install what test-tauri and test-studio need from Debian, if it is missing
	@{ pkg-config --exists webkit2gtk-4.1 && command -v Xvfb && command -v WebKitWebDriver; } >/dev/null || { $(INSTALL_PACKAGES) $(TAURI_PACKAGES) $(STUDIO_PACKAGES); }

lint: $(READY) ## ruff, and which package may import which
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(READY) ## pyright, for this system and, of the files that name what differs, for macOS and (what ships) Windows
	$(BIN)/pyright
	$(BIN)/pyright --pythonplatform Darwin $(PLATFORM_FILES)
	$(BIN)/pyright --pythonplatform Windows $(filter-out tests/% packaging/%,$(PLATFORM_FILES))

resolves: $(READY) ## ask the package index whether the extras install on Macs (says so where it cannot be reached)
	$(BIN)/python tests/wheels/resolves.py

generated: $(READY) ## fail when a generated file is stale
	$(BIN)/python -m locara_protocol.generate --check
	$(BIN)/python -m locara_conformance.clauses --check
	$(BIN)/python fixtures/make_models.py --check
	$(BIN)/python fixtures/make_published.py --check

schemas: $(READY) ## write the OpenRPC document, the JSON Schemas and the list of clauses anew
	$(BIN)/python -m locara_protocol.generate
	$(BIN)/python -m locara_conformance.clauses

fixtures: $(READY) ## write the tiny models anew; once about 500 MB of older libraries, which wrote the published ones
	$(BIN)/python fixtures/make_models.py
	$(BIN)/python fixtures/make_published.py

check: lint types resolves generated test-typescript test-ui test-rust test-tauri test-studio test test-slow ## all that CI runs

check-mac: $(READY) ## on a Mac: see all that was never run on one, and write a report to send back (FLAGS="--only PART …")
	PYTHONPATH=tests $(BIN)/python -m macos.check $(FLAGS)

conformance: $(READY) ## test the daemon from outside, clause by clause (FLAGS="--only GROUP --html FILE")
	$(BIN)/locara-conformance $(FLAGS) -- $(BIN)/locara-sidecar serve --engine fake

bench: $(READY) ## measure what is promised; prints a table and JSON (FLAGS=--write puts it into tests/MEASURED.md)
	$(MEASURE) tests/bench/run.py $(FLAGS)

bench-download: $(READY) ## our download against huggingface_hub's own, 2 GB over loopback (FLAGS="--bytes N --rounds N")
	$(MEASURE) tests/bench/throughput.py $(FLAGS)

bench-first-picture: $(READY) ## measure from spawning the sidecar to the first picture of the embedded model (FLAGS="--engine mlx --rounds N")
	$(MEASURE) -m bench.first_picture $(FLAGS)

bench-layout: $(READY) ## measure what channels-last convolutions gain on the torch engine (FLAGS="--device cuda --size N")
	$(MEASURE) tests/bench/layout.py $(FLAGS)

bench-mlx-work: $(READY) ## count what the MLX engine hands to Metal beside the products, and three peers' figures (FLAGS="--kinds NAME …")
	$(MEASURE) -m bench.mlx_work $(FLAGS)

bench-operations: $(READY) ## count the work that the MLX engine gives to the device, against what each model needs
	$(MEASURE) tests/bench/operations.py

bench-pace: $(READY) ## measure what it costs the MLX engine to be able to stop inside a step (FLAGS="--seconds N")
	$(MEASURE) tests/bench/pace.py $(FLAGS)

bench-quantization: $(READY) ## measure what quantizing costs in accuracy, kind of layer by kind of layer
	$(MEASURE) tests/bench/quantization.py

bench-quality: $(READY) ## measure what 8 and 4 bits cost in quality on the torch engine
	$(MEASURE) tests/bench/quality.py

bench-shares: $(READY) ## measure where the time of a short job goes, beside diffusers (FLAGS="--turns N")
	$(MEASURE) -m bench.shares $(FLAGS)

bench-speed: $(READY) ## measure what step caching gains and costs on an engine (FLAGS="--engine torch|mlx --pictures N --steps N" or "--patterns")
	$(MEASURE) tests/bench/speed.py $(FLAGS)

bench-waiting: $(READY) ## measure what ways of waiting cost OpenMP's threads, on a quiet and on a busy machine (FLAGS="--rounds N --steps N")
	$(MEASURE) tests/bench/waiting.py $(FLAGS)

fullsize: $(READY) ## draw with MODEL (flux.1-schnell, sd3.5-medium, flux.2-klein-4b, …) in full size, random weights; up to 35 GB of disk (FLAGS="--size N --folder DIR")
	$(MEASURE) -m fullsize.run $(or $(MODEL),sd3.5-medium) $(FLAGS)

fullsize-accelerator: $(READY) ## draw with all models in full size on a CUDA device, beside diffusers; random weights; up to 60 GB (FLAGS="MODEL[:QUANTIZATION] … --steps N")
	$(MEASURE) -m fullsize.accelerator $(FLAGS)

fullsize-mlx: $(READY) ## quantize full-size synthetic transformers while reading them; prints peaks (FLAGS="--only flux --folder DIR")
	$(MEASURE) -m fullsize.mlx $(FLAGS)

fullsize-prepared: $(READY) ## load a synthetic MODEL quantized while it is read, prepare it, load it again; up to 45 GB of disk (FLAGS="--cold --folder DIR")
	$(MEASURE) -m fullsize.prepared $(or $(MODEL),sd3.5-medium) $(FLAGS)

fullsize-strips: $(READY) ## measure what a full-size autoencoder holds while it decodes and encodes in strips; an hour for 2048 x 2048 on two cores (FLAGS="WAY:SIDE:TYPE … --engine mlx")
	$(MEASURE) -m fullsize.strips $(FLAGS)

campaign-capability: $(READY) ## race, collide and misname a million saves, race a million reads (FLAGS="--saves N --reads N --collisions N"); prints a report
	$(MEASURE) tests/campaigns/capability.py $(FLAGS)

campaign-daemon: $(READY) ## kill hosts and engines, hang, shout, stop reading (FLAGS="--hosts N --engines N --json N"); prints a report
	$(MEASURE) tests/campaigns/daemon.py $(FLAGS)

campaign-hostile-engine: $(READY) ## what an engine tries that was taken over, in its real sandbox (FLAGS="--engines torch mlx --users root nobody"); prints a table
	$(MEASURE) tests/campaigns/hostile_engine.py $(FLAGS)

campaign-lies: $(READY) ## run each deliberately broken sidecar against all MUSTs that its lie bears on (FLAGS="--lies NAME … --shard I/N --at-once N --all --json FILE"); prints a report
	$(MEASURE) tests/campaigns/lies.py $(FLAGS)

campaign-soak: $(READY) ## keep one daemon at work and see that nothing is left behind (FLAGS="--minutes N --engine torch mlx"); prints a report
	$(MEASURE) tests/campaigns/soak.py $(FLAGS)

campaign-store: $(READY) ## kill, cut the power of, corrupt and collect the model store (FLAGS="--kills N --cuts N --only PART"); prints a report
	$(MEASURE) tests/campaigns/store.py $(FLAGS)

planted-faults: $(READY) ## break each promise once in a copy and see the tests fail (FLAGS="AREA … --only TEXT --since COMMIT"); about half an hour
	$(MEASURE) tests/faults/run.py $(FLAGS)

pictures: $(READY) ## draw the pictures of README.md anew
	$(BIN)/python tests/record_pictures.py

transcript: $(READY) ## record a real exchange into protocol/README.md, and the examples of the OpenRPC document
	$(BIN)/python tests/record_transcript.py
	$(MEASURE) tests/record_examples.py
	$(BIN)/python -m locara_protocol.generate

clean: ## remove .venv and what tools leave behind
	rm -rf $(VENV) .ruff_cache .pytest_cache .hypothesis build dist out
	rm -rf protocol/typescript/node_modules protocol/typescript/dist protocol/typescript/build
	rm -rf $(UI)/node_modules $(UI)/dist $(UI)/build $(UI)/test-results
	rm -rf protocol/rust/target
	rm -rf packaging/tauri/node_modules packaging/tauri/dist-js packaging/tauri/target packaging/tauri/examples/*/dist $(STUDIO)/node_modules
