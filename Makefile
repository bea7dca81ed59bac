# Every target sets up what it needs: a fresh clone needs Python (3.11 to 3.13), make and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
TESTS := -m pytest -n 2 --dist worksteal -m 'not slow'
RUN := $(BIN)/python -m hrm_bench -m launcher=joblib
LOWEST := .venv-lowest
ARGS ?=
AGAINST ?=
RECIPE ?= published

.DEFAULT_GOAL := help
.PHONY: help setup demo test test_slow test_lowest check reproduce exp1 exp2 exp2_as_published supervision causal_mask hierarchy plateau \
	memory_matrix experiments recipes ablation budget tuning memory_chance scaling controls weights report dashboard bench docs hashes clean

help: ## Show this help
	@grep -hE '^[a-z0-9_]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'
	@echo '  ARGS="key=value ..." is passed on, as in: make exp1 ARGS="seed=7,8 recipe.max_epochs=2"'

setup: $(READY) ## Make .venv with the exact versions of constraints.txt

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 -c constraints.txt -e '.[dev,launchers,dashboard,tuning]'
	@touch $@

demo: setup ## Train every model once on the bundled text
	$(RUN) experiment=demo $(ARGS)

test: setup ## Run the tests
	$(BIN)/python $(TESTS)

test_slow: setup ## Run the tests that take longer: 12 jobs an engine, and a sweep that is killed 40 times
	$(BIN)/python -m pytest -m slow
	$(BIN)/python tests/kill.py

$(LOWEST)/ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --use-pep517 -c constraints-lowest.txt -e '.[dev,launchers,tuning]'
	@touch $@

test_lowest: $(LOWEST)/ready ## Run the tests with the lowest versions that pyproject.toml allows
	$(LOWEST)/bin/python $(TESTS)

check: setup ## What to run before a commit: style, types, imports, spelling, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python $(TESTS)

reproduce: setup ## Every claim of both reports on WikiText-2, 8 seeds, to its verdict; RECIPE=tuned: by that recipe
	$(BIN)/python -m hrm_bench.claims papers/hrm_reports.yaml launcher=joblib recipe=$(RECIPE) $(ARGS)

experiments: hierarchy plateau memory_matrix ## Beyond the reports: hierarchy, plateau, memory_matrix; then the report
	$(BIN)/python -m hrm_bench.report

exp1: setup ## The first report: HRM against LCT+OACD
	$(RUN) experiment=hrm_vs_lct $(ARGS)

exp2: setup ## The second report with causal memories: HRM against HRM+Memory and Infini-HRM
	$(RUN) experiment=hrm_vs_infini $(ARGS)

exp2_as_published: setup ## The second report as it was run
	$(RUN) experiment=hrm_vs_infini_as_published $(ARGS)

supervision: setup ## Does the loss at every segment and for every layer matter? With controls
	$(RUN) experiment=supervision $(ARGS)

causal_mask: setup ## What HRM reaches where it sees what it is to predict
	$(RUN) experiment=causal_mask $(ARGS)

hierarchy: setup ## What of the hierarchy matters: order of updates, levels, depth of the gradient
	$(RUN) experiment=hierarchy $(ARGS)

plateau: setup ## Failed, or stopped on the unigram plateau? Patience off, and a head given time and a bias
	$(RUN) experiment=plateau $(ARGS)

memory_matrix: setup ## Where does a memory help? Modes, orders of the text, windows a sample
	$(RUN) experiment=memory_matrix $(ARGS)

recipes: setup ## Every model under both recipes: as published, and as well as we can train it
	$(RUN) experiment=recipes $(ARGS)

tuning: setup ## Search for the tuned recipe's values, as many trials for each model (80 minutes)
	$(RUN) experiment=tuning $(ARGS)

ablation: setup ## What each part of recipe=tuned is worth
	$(RUN) experiment=ablation $(ARGS)

budget: setup ## Does the order of models by recipe=tuned change with two and four times the training? (70 minutes)
	$(RUN) experiment=budget $(ARGS)

memory_chance: setup ## Does a carried memory ever gain what counting on gains? (65 minutes)
	$(RUN) experiment=memory_chance $(ARGS)

scaling: setup ## HRM against the transformer with more text and more parameters (two hours)
	$(RUN) experiment=scaling $(ARGS)

controls: setup ## The memories that verdicts rest on, where they must help: recall (a quarter of an hour)
	$(RUN) experiment=controls $(ARGS)

weights: setup ## Eight trained HRMs, LSTMs and transformers by recipe=tuned, into weights/ (20 minutes)
	$(RUN) experiment.name=weights model=hrm,lstm,transformer recipe=tuned seed=42,43,44,45,46,47,48,49 $(ARGS)
	$(BIN)/python -m hrm_bench.archive weights multirun/weights weights

report: setup ## The report of all sweeps in multirun/, again, from their records
	$(BIN)/python -m hrm_bench.report

dashboard: setup ## A W&B workspace that compares model, memory and seed; needs `wandb login`
	$(BIN)/python tools/wandb_workspace.py $(ARGS)

bench: setup ## How fast it is, as ratios: against plain code, peers and a bare loop; AGAINST=COMMIT: also that commit
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 -c constraints.txt -e '.[peers]'
	$(BIN)/python -m benchmarks $(if $(AGAINST),against=$(AGAINST)) $(ARGS)

docs: setup ## Build the documentation site into site/; a link that leads nowhere is an error
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

hashes: setup ## What a few cells give here with portable arithmetic, to compare with docs/performance.md (two minutes)
	$(BIN)/python -m benchmarks.hashes

clean: ## Remove both .venv and caches; multirun/ is kept
	rm -rf $(VENV) $(LOWEST) site *.egg-info .pytest_cache .mypy_cache .ruff_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
