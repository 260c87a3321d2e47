# `make demo` and `make test` work on a fresh machine with Python >= 3.11: they make .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BASE := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
WORKERS ?= logical
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: demo test test-slow test-all faults lint check format bench bench-baseline clean

demo: $(BASE)
	bash experiments/runs/demo.sh

test: $(DEV)
	$(PYTEST) -m "not slow"

test-slow: $(DEV)
	$(PYTEST) -m slow

# Plant known faults in copies of the code: the test that is named for each must fail.
faults: $(DEV)
	$(BIN)/python -m tests.faults

# Some minutes of one quiet core. What fell by more than a tenth is said, as ratios, which hold on any machine.
BENCH := OMP_NUM_THREADS=1 $(BIN)/python -m experiments benchmark engine ragged prompt learner adapter \
  --batches 16 --new-tokens 32 --actions 2305 --rounds 5
BASELINE := experiments/bench/baseline.json

bench: $(DEV)
	$(BENCH) --baseline $(BASELINE)

bench-baseline: $(DEV)
	$(BENCH) --out $(BASELINE)

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

test-all: test test-slow faults

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The base install is what users have; what the tests and linters need comes on top.
$(BASE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(DEV): $(BASE)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
