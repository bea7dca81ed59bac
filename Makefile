# Every target sets up what it needs: a fresh clone needs Python (3.11 to 3.13), make and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
RUN := $(BIN)/python -m hrm_bench -m launcher=joblib
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test check reproduce exp1 exp2 exp2_as_published report clean

help: ## Show this help
	@grep -hE '^[a-z0-9_]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'
	@echo '  ARGS="key=value ..." is passed on, as in: make exp1 ARGS="seed=7,8 recipe.max_epochs=2"'

setup: $(READY) ## Make .venv with the exact versions of constraints.txt

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,launchers]'
	@touch $@

demo: setup ## Train every model once on the bundled text
	$(RUN) experiment=demo $(ARGS)

test: setup ## Run the tests
	$(BIN)/python -m pytest -n 2

check: setup ## What to run before a commit: style, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

reproduce: exp1 exp2 exp2_as_published ## All experiments of both reports on WikiText-2, 8 seeds; finished cells are kept

exp1: setup ## The first report: HRM against LCT+OACD
	$(RUN) experiment=hrm_vs_lct $(ARGS)

exp2: setup ## The second report with causal memories: HRM against HRM+Memory and Infini-HRM
	$(RUN) experiment=hrm_vs_infini $(ARGS)

exp2_as_published: setup ## The second report as it was run
	$(RUN) experiment=hrm_vs_infini_as_published $(ARGS)

report: setup ## The tables of all sweeps in multirun/, again, from their records
	$(BIN)/python -m hrm_bench.report

clean: ## Remove .venv and caches; multirun/ is kept
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
