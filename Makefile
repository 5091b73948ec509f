# make run, make test, make demo: all a newcomer needs. Everything lives in .venv and var; `make clean` removes both.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
COMPILED := $(VENV)/.compiled

.PHONY: help run compiled test lint types tests demo bench soak chaos faults docs programs lock clean

help:  ## Show what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Wattbook needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) -V). Say: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Creating the environment in $(VENV) (once; about a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(COMPILED): $(READY) compiled.py deploy/compile_engine.py $(shell find engine -name '*.py')
	@$(BIN)/python deploy/compile_engine.py
	@touch $@

run: $(COMPILED)  ## Start the exchange and everything it needs on this machine
	@exec $(BIN)/wattbookd

test: lint types tests  ## Lint, types, every test, coverage

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml engine actors gateway persistence chain config commands *.py
	@$(BIN)/python -m tests.support.audit_dependencies

types: $(READY)
	$(BIN)/mypy .

tests: $(COMPILED)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m tests
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --include='engine/*' --skip-covered --fail-under=95
	$(BIN)/coverage report --skip-covered --fail-under=85

demo: $(COMPILED)  ## Fifty households trade a real day in two minutes
	@exec $(BIN)/wattbook demo

bench: $(COMPILED)  ## Measure speed; figures go to var/bench.json
	@$(BIN)/python -m bench

soak: $(COMPILED)  ## HOURS= of load, and what grows meanwhile
	@$(BIN)/python -m bench.soak $(if $(HOURS),--hours $(HOURS))

chaos: $(COMPILED)  ## Trouble of every kind under load, in the order of SEED=, for MINUTES=; the audit judges
	@$(BIN)/python -m tests.faults $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES))

faults: $(COMPILED)  ## Each fault by itself, again and again, and thousands of failing histories
	@LONG=1 $(BIN)/python -m pytest tests/faults tests/simulation -s

compiled: $(COMPILED)  ## Make machine code of the engine, as all of the above do after a change of it

docs: $(READY)  ## Write the tables of docs/ that come from the code
	$(BIN)/python -m gateway.permission_page docs/security.md

programs: $(READY)  ## Build the five Solana programs; needs a compiler, which it installs once (90 MB)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r chain/programs/compiler.txt
	@$(BIN)/python -m chain.programs.build

lock: $(READY)  ## Pin dependencies anew after a change of pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --group demo --group dev \
		--custom-compile-command "make lock" pyproject.toml --output-file requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --group image \
		--constraint requirements.lock --custom-compile-command "make lock" pyproject.toml --output-file deploy/requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --group compiler \
		--constraint requirements.lock --custom-compile-command "make lock" --output-file deploy/compiler.lock

clean:  ## Remove the environment and all data
	rm -rf $(VENV) var
