# Everything runs in a virtual environment of its own; the system's Python is only used to make it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: quickstart test test-slow lint format types setup setup-dev compat clean

quickstart: $(VENV)/.core ## pre-train, fine-tune, reward model, PPO, report (about eight minutes on two cores)
	$(BIN)/textenv quickstart $(ARGS)

test: $(VENV)/.dev ## the default tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-slow: $(VENV)/.dev ## the tests that the default run leaves out: slow, learning and network
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "(slow or learning or network) and not release" $(ARGS)

lint: $(VENV)/.dev ## lint, format check, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --threads 2

format: $(VENV)/.dev ## mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

compat: $(VENV)/.dev ## third-party libraries, each in an environment of its own
	$(BIN)/python -m tests.compat.run $(ARGS)

setup: $(VENV)/.core
setup-dev: $(VENV)/.dev

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "textenv needs Python 3.11 or newer; call: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip --version >/dev/null
	@touch $@

$(VENV)/.core: $(VENV)/.made pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@ $(VENV)/.core

clean: ## remove the virtual environment; runs stay
	rm -rf $(VENV) .compat
