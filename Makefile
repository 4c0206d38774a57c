# make demo: installs Palimpsest, then runs the main job on the sample corpus. make test: everything a bare machine can check.
# make chaos: the crash sweeps with more kills, then at least a thousand faults over many ingestions, half an hour;
# CHAOS="--seed 2 --faults 5000 --write docs/results"
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test chaos check bench install clean

install: $(VENV)/installed-dev

# --no-compile: of twenty thousand modules Python compiles those that it imports.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/pip
	$(PIP) -e .
	touch $@

# Azurite, the server behind the test of az://, is a package of npm; without npm that test is skipped.
$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/pip
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps mosaicml-streaming==0.13.0  # reads an export in a test; some of what it requires contradicts our versions
	npm install --silent --no-audit --no-fund --prefix $(VENV)/node azurite@3.35.0 || echo "no Azurite: the test of az:// will be skipped"
	touch $(VENV)/installed $@

demo: $(VENV)/installed
	$(BIN)/palimpsest run demo
	$(BIN)/palimpsest inspect demo/corpus
	$(BIN)/palimpsest report demo/corpus --out demo/report.html

test: install
	$(BIN)/python -m pytest -n 3 --dist loadfile

chaos: install
	$(BIN)/python -m pytest --kills 10 tests/test_run_crash.py tests/test_ingest_crash.py tests/test_retier_crash.py tests/test_store_crash.py
	$(BIN)/python -m tests.chaos $(CHAOS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_rooms.py tests/test_config.py tests/test_grid.py tests/test_fidelity.py

bench: install
	$(BIN)/palimpsest bench render
	$(BIN)/palimpsest bench encode
	$(BIN)/palimpsest bench verify
	$(BIN)/palimpsest bench run

clean:
	rm -rf demo
