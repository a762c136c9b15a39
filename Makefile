# The two commands a newcomer needs are `make demo` and `make test`; both set up what they use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup demo test test-vllm quick lint results bench clean

help:
	@echo "make demo      watch a small model learn arithmetic (a few minutes, no download of data or models)"
	@echo "make test      the whole test suite"
	@echo "make test-vllm the tests of vLLM, in an environment of their own (.venv-vllm, some minutes to make)"
	@echo "make quick     the quick tier of it"
	@echo "make lint      ruff, pyright, import-linter"
	@echo "make results   the slow tables of docs/results.md; WORDS=DIR adds the real word problems, GSM8K=FILE the 0.5B run, KK=DIR knights and knaves, VLLM=1 the engines (after test-vllm), REWARDS=DIR the rewards on real data"
	@echo "make bench     a GRPO step against TRL, in turns, into benchmarks/speed.md; one core; ARGS='--shapes b --pairs 3'"
	@echo "make setup     the environment in .venv, with the development extras"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $(STAMP)

demo: setup
	$(BIN)/gruppo demo $(ARGS)

test: setup
	$(BIN)/python -m pytest --numprocesses 2 $(ARGS)

test-vllm:
	PYTHON=$(PYTHON) scripts/test-vllm $(ARGS)

quick: setup
	$(BIN)/python -m pytest --numprocesses 2 -m "not slow" $(ARGS)

lint: setup
	$(BIN)/ruff check src tests examples recipes benchmarks
	$(BIN)/ruff format --check src tests examples recipes benchmarks
	$(BIN)/pyright
	$(BIN)/lint-imports

results: setup
	$(BIN)/python benchmarks/results.py $(if $(WORDS),--words $(WORDS)) $(if $(GSM8K),--gsm8k $(GSM8K)) $(ARGS)
	$(BIN)/python benchmarks/variants.py
	$(BIN)/python benchmarks/curriculum.py
	$(BIN)/python benchmarks/check_interval.py
	$(if $(KK),$(BIN)/python benchmarks/knights.py --data $(KK))
	$(if $(KK),$(BIN)/python benchmarks/logic.py --data $(KK))
	$(if $(REWARDS),$(BIN)/python benchmarks/rewards.py --data $(REWARDS))
	$(if $(REWARDS),$(BIN)/python benchmarks/code_judge.py --data $(REWARDS)/mbpp)
	$(BIN)/python benchmarks/sandbox.py
	$(if $(VLLM),PYTHONPATH=src .venv-vllm/bin/python benchmarks/engines.py)
	$(if $(VLLM),PYTHONPATH=src .venv-vllm/bin/python benchmarks/engines_demo.py)
	GRUPPO_SANDBOX_RUNS=10000 $(BIN)/python -m pytest tests/test_sandbox_life.py -k nothing_behind

bench: setup
	$(BIN)/python benchmarks/speed.py $(ARGS)

clean:
	rm -rf $(VENV) .venv-vllm build dist .pytest_cache .ruff_cache
