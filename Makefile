# One-liners over the console script: everything here can be called without make.
#
#   make bench DATASET=houston2013 SHOTS="2 5 10" METHODS="rf-spatial cnn" DRAWS=10 BUDGET=paper

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev

DATASET ?= simulated
SPLIT ?= random-v1
SHOTS ?= 2
METHODS ?= all
DRAWS ?= 5
BUDGET ?= quick
RESULTS ?= results
# Length of `make fuzz` and `make torture`.
MINUTES ?= 10
# Further options of the command, e.g. RUN="--workers 4 --keep-going".
RUN ?=

# Read when libraries are loaded: OpenMP threads that wait actively and returned pages cost factors on busy CPUs.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 3000
export MALLOC_MMAP_MAX_ ?= 0
export MALLOC_TRIM_THRESHOLD_ ?= 100000000000

BIN := $(VENV)/bin
# In the shell's quotes, and several words in quotes only if all of them together are the name of a file.
quoted = '$(subst ','\'',$(1))'
one_or_more = $(if $(shell test -e $(call quoted,$(1)) && echo yes),$(call quoted,$(1)),$(1))
# The environment; stops with one line if `make setup` has not made it.
ENV = $(if $(shell test -x $(call quoted,$(BIN)/mmrs-bench) && echo yes),$(call quoted,$(BIN)),\
	$(error there is no environment in $(VENV) yet; run make setup first))
BENCH = $(strip $(ENV))/mmrs-bench
CHOICE = --datasets $(call one_or_more,$(DATASET)) --splits $(SPLIT) --shots $(SHOTS) --methods $(call one_or_more,$(METHODS))
SUITE = $(CHOICE) --draws $(DRAWS) --budget $(BUDGET) --results $(call quoted,$(RESULTS))

# Pages with tables of results.
PAGES = README.md $(wildcard docs/*.md docs/*/*.md)

.DEFAULT_GOAL := help
.PHONY: help setup demo doctor bench watch plan leaderboard tables collect compare map regress update-baselines data test test-all fuzz torture lint docs speed speed-regress check-wheel

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' $(MAKEFILE_LIST) | column -t -s: -l 2

# uv does not read pip's settings; without them it would fetch a CUDA build of torch (several GB) on a machine whose
# pip is set up to offer a CPU build. So it is given them, and pip's rule that all indexes count the same.
pip_setting = $$($(call quoted,$(BIN)/python) -m pip config get global.$(1) 2>/dev/null | xargs)

setup: ## environment in .venv, once; EXTRAS="dev,fast" adds extras
	@for python in $(call quoted,$(BIN)/python) $(call quoted,$(PYTHON)); do \
		command -v "$$python" >/dev/null || continue; \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' && exit 0; \
		echo "make setup: $$python is $$("$$python" --version 2>&1), and Python 3.11 or newer is needed; run" \
			"make setup PYTHON=python3.11 (an environment that another Python made: delete $(VENV) first)" >&2; \
		exit 1; \
	done; echo "make setup: there is no $(PYTHON); run make setup PYTHON=/path/to/python3.11" >&2; exit 1
	@test -x $(call quoted,$(BIN)/python) || $(PYTHON) -m venv $(call quoted,$(VENV))
	@if command -v uv >/dev/null; then \
		links="$${PIP_FIND_LINKS:-$(call pip_setting,find-links)}"; \
		more="$${PIP_EXTRA_INDEX_URL:-$(call pip_setting,extra-index-url)}"; \
		index="$${PIP_INDEX_URL:-$(call pip_setting,index-url)}"; \
		test -z "$$links" || export UV_FIND_LINKS="$${UV_FIND_LINKS:-$$(echo $$links | tr ' ' ',')}"; \
		test -z "$$more" || export UV_EXTRA_INDEX_URL="$${UV_EXTRA_INDEX_URL:-$$more}"; \
		test -z "$$index" || export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; \
		export UV_INDEX_STRATEGY="$${UV_INDEX_STRATEGY:-unsafe-best-match}"; \
		uv pip install --python $(call quoted,$(BIN)/python) --constraint constraints.txt --editable '.[$(EXTRAS)]'; \
	else \
		$(call quoted,$(BIN)/python) -m pip install --constraint constraints.txt --editable '.[$(EXTRAS)]'; \
	fi
	@$(call quoted,$(BIN)/python) -c 'from mmrs_bench import _torchvision_guard; _torchvision_guard.main()'
	@$(call quoted,$(BIN)/mmrs-bench) version

demo: ## a first look in less than a minute: table, curves, map
	@$(BENCH) demo

doctor: ## what this machine has, a self-test of every module, times of the hot paths
	@$(BENCH) doctor

bench: ## compute what is missing, then show the leaderboard
	@$(BENCH) run $(SUITE) $(RUN)

watch: ## the progress of a run on RESULTS that goes on in another terminal
	@$(BENCH) watch $(call quoted,$(RESULTS)) $(RUN)

plan: ## every cell, its state, and how long the rest will take
	@$(BENCH) plan $(SUITE)

leaderboard: ## all tables of RESULTS, to the terminal and to files
	@$(BENCH) leaderboard --results $(call quoted,$(RESULTS))

tables: ## the tables of README and docs, generated from benchmarks/results; collect fills that from RESULTS
	@$(BENCH) tables $(PAGES) --results benchmarks/results $(RUN)

collect: ## add the records of RESULTS to benchmarks/results
	@$(BENCH) collect $(call quoted,$(RESULTS)) --out benchmarks/results $(RUN)

compare: ## two methods draw by draw: METHODS="rf-spatial cnn"
	@$(BENCH) compare $(METHODS) --results $(call quoted,$(RESULTS))

map: ## class maps of a whole scene on one sheet: METHODS="rf-spatial cnn"
	@$(BENCH) map $(CHOICE) --budget $(BUDGET) --results $(call quoted,$(RESULTS)) $(RUN)

regress: ## OA, AA and kappa against the committed baselines; exit 1 on a loss
	@$(BENCH) regress $(RUN)

update-baselines: ## measure new baselines (clean checkout only), print old -> new
	@$(BENCH) regress --update-baselines $(RUN)

data: ## scenes and which of them are here; `mmrs-bench data fetch NAME` gets one
	@$(BENCH) data list

test: ## the tests, on up to four cores
	@OMP_NUM_THREADS=1 $(ENV)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal $(RUN)

test-all: ## the tests, slow ones too
	@OMP_NUM_THREADS=1 $(ENV)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m "slow or not slow" $(RUN)

fuzz: ## damaged files to every reader, for MINUTES=10: inputs tried, escapes, peak memory
	@OMP_NUM_THREADS=1 MMRS_FUZZ_MINUTES=$(MINUTES) $(ENV)/python -m pytest -q --timeout=0 tests/fuzz $(RUN)

torture: ## kill runs, fill the disk, damage files for MINUTES=10: records lost, wrong, hangs, tracebacks
	@cd tests && OMP_NUM_THREADS=1 "$(abspath $(BIN))/python" -m torture.campaign --minutes $(MINUTES) $(RUN)

lint: ## format, lint and types
	@$(ENV)/ruff check .
	@$(ENV)/ruff format --check .
	@$(ENV)/mypy

docs: ## the documentation site, in site/; needs no network once `make setup` is done
	@test -x $(call quoted,$(BIN)/mmrs-bench) || $(MAKE) --no-print-directory setup
	@NO_MKDOCS_2_WARNING=1 $(call quoted,$(BIN)/python) -m mkdocs build --strict $(RUN)

speed: ## hot paths beside their bounds, in one table and speed.json; needs an idle machine
	@$(ENV)/python benchmarks/speed $(RUN)

speed-regress: ## the same, and exit 1 where a ratio is worse than the committed one
	@$(ENV)/python benchmarks/speed --regress true $(RUN)

check-wheel: ## build the wheel, and run it outside the checkout
	@.ci/check-wheel $(ENV)/python
