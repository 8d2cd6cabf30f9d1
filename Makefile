# make demo: set up and train on handwritten digits.  make test: set up and check everything.  make bench: the claims.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
SOURCES = $(shell find src -name '*.py') pyproject.toml

.PHONY: demo test lint bench clean

$(VENV)/installed: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall .
	touch $@

demo: $(VENV)/installed
	$(BIN)/kronsgd train --dataset digits --features "(1 + x) ** 2" --test-fraction 0.2 --n-hidden 2048 \
	    --out runs/digits --force

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The tests run in a copy beside nothing but themselves, so that they meet the built wheel and not the sources.
test: lint
	rm -rf build/check && mkdir -p build/check
	cp -r tests docs examples benchmarks fuzz pyproject.toml README.md build/check/
	cd build/check && $(abspath $(BIN))/python -m pytest

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks.run

clean:
	rm -rf $(VENV) build dist runs .mypy_cache .ruff_cache .pytest_cache
