# Everything that people and CI run. Each target sets up what it needs in .venv, once.

comma := ,
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# what auto takes on a Mac with Apple silicon, without torch; elsewhere the tests compare both (ENGINES=torch,mlx anywhere)
ENGINES ?= $(if $(filter Darwin-arm64,$(shell uname -s)-$(shell uname -m)),mlx,torch$(comma)mlx)
PROMPT ?= a large yellow star in the center of a blue background

.PHONY: help setup demo test lint types generated schemas fixtures check bench bench-layout bench-operations bench-pace bench-quantization bench-quality bench-speed fullsize fullsize-accelerator fullsize-mlx fullsize-prepared bench-download campaign-capability campaign-daemon campaign-soak campaign-store planted-faults transcript clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## make .venv with everything in it

$(READY): pyproject.toml packaging/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; set PYTHON=/path/to/python"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c packaging/constraints.txt -e '.[$(ENGINES),dev]'
	touch $@

demo: $(READY) ## draw PROMPT with the embedded model, live in the terminal
	@$(BIN)/locara-sidecar demo "$(PROMPT)"

test: $(READY) ## run the tests
	$(BIN)/python -m pytest -q

lint: $(READY) ## ruff
	$(BIN)/ruff check .

types: $(READY) ## pyright
	$(BIN)/pyright

generated: $(READY) ## fail when a generated file is stale
	$(BIN)/python -m locara_protocol.generate --check
	$(BIN)/python fixtures/make_models.py --check

schemas: $(READY) ## write the OpenRPC document and the JSON Schemas anew
	$(BIN)/python -m locara_protocol.generate

fixtures: $(READY) ## write the tiny models anew
	$(BIN)/python fixtures/make_models.py

check: lint types generated test ## all that CI runs

bench: $(READY) ## measure what the README promises; prints a table and JSON (FLAGS=--write puts it into README.md)
	$(BIN)/python packaging/bench/run.py $(FLAGS)

bench-download: $(READY) ## our download against huggingface_hub's own, 2 GB over loopback (FLAGS="--bytes N --rounds N")
	$(BIN)/python packaging/bench/throughput.py $(FLAGS)

bench-layout: $(READY) ## measure what channels-last convolutions gain on the torch engine (FLAGS="--device cuda --size N")
	PYTHONPATH=packaging $(BIN)/python packaging/bench/layout.py $(FLAGS)

bench-operations: $(READY) ## count the work that the MLX engine gives to the device, against what each model needs
	PYTHONPATH=packaging $(BIN)/python packaging/bench/operations.py

bench-pace: $(READY) ## measure what it costs the MLX engine to be able to stop inside a step (FLAGS="--seconds N")
	PYTHONPATH=packaging $(BIN)/python packaging/bench/pace.py $(FLAGS)

bench-quantization: $(READY) ## measure what quantizing costs in accuracy, kind of layer by kind of layer
	PYTHONPATH=packaging $(BIN)/python packaging/bench/quantization.py

bench-quality: $(READY) ## measure what 8 and 4 bits cost in quality on the torch engine
	PYTHONPATH=packaging $(BIN)/python packaging/bench/quality.py

bench-speed: $(READY) ## measure what step caching gains and costs on the torch engine (FLAGS="--pictures N --steps N" or "--patterns")
	PYTHONPATH=packaging $(BIN)/python packaging/bench/speed.py $(FLAGS)

fullsize: $(READY) ## draw with MODEL (flux.1-schnell, sd3.5-medium, sd3.5-large) in full size, random weights; up to 35 GB of disk (FLAGS="--size N --folder DIR")
	PYTHONPATH=packaging $(BIN)/python -m fullsize.run $(or $(MODEL),sd3.5-medium) $(FLAGS)

fullsize-accelerator: $(READY) ## draw with all models in full size on a CUDA device, beside diffusers; random weights; up to 60 GB (FLAGS="MODEL[:QUANTIZATION] … --steps N")
	PYTHONPATH=packaging $(BIN)/python -m fullsize.accelerator $(FLAGS)

fullsize-mlx: $(READY) ## quantize full-size synthetic transformers while reading them; prints peaks (FLAGS="--only flux --folder DIR")
	PYTHONPATH=packaging $(BIN)/python -m fullsize.mlx $(FLAGS)

fullsize-prepared: $(READY) ## load a synthetic MODEL quantized while it is read, prepare it, load it again; up to 45 GB of disk (FLAGS="--cold --folder DIR")
	PYTHONPATH=packaging $(BIN)/python -m fullsize.prepared $(or $(MODEL),sd3.5-medium) $(FLAGS)

campaign-capability: $(READY) ## race, collide and misname a million saves, race a million reads (FLAGS="--saves N --reads N --collisions N"); prints a report
	$(BIN)/python packaging/campaigns/capability.py $(FLAGS)

campaign-daemon: $(READY) ## kill hosts and engines, hang, shout, stop reading (FLAGS="--hosts N --engines N --json N"); prints a report
	$(BIN)/python packaging/campaigns/daemon.py $(FLAGS)

campaign-soak: $(READY) ## keep one daemon at work and see that nothing is left behind (FLAGS="--minutes N --engine torch mlx"); prints a report
	$(BIN)/python packaging/campaigns/soak.py $(FLAGS)

campaign-store: $(READY) ## kill, cut the power of, corrupt and collect the model store (FLAGS="--kills N --cuts N --only PART"); prints a report
	$(BIN)/python packaging/campaigns/store.py $(FLAGS)

planted-faults: $(READY) ## break each promise once in a copy and see the tests fail (FLAGS="AREA … --only TEXT"); about half an hour
	$(BIN)/python packaging/faults/run.py $(FLAGS)

transcript: $(READY) ## record a real exchange into protocol/README.md
	$(BIN)/python packaging/transcript.py

clean: ## remove .venv and what tools leave behind
	rm -rf $(VENV) .ruff_cache .pytest_cache .hypothesis build dist out
