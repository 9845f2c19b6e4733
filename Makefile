# Each target sets up what it needs. `make` alone lists the targets.
PYTHON  ?= $(shell for p in python3.12 python3.11 python3; do \
             $$p -c 'import ensurepip, sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null \
             && echo $$p && break; done)
TORCH   ?= torch==2.13.0
PROFILE ?= cpu
DATA    ?= template
SEED    ?= 0
LIMIT   ?= 520
SECONDS ?= 600
# The pages that differ from the last commit, for `make check`.
PAGE    ?= $(basename $(notdir $(shell git diff --name-only HEAD -- 'nbs/*.ipynb' 2>/dev/null)))

BIN := .venv/bin
# What the targets start finds the tools of .venv first.
RUN := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)

# The folder that holds the data sets, and the one that holds reference outputs: yours, or the ones beside the clone.
ifeq ($(REGPRE_DATA),)
REGPRE_DATA := $(shell cd ../shared/data 2>/dev/null && pwd)
endif
ifeq ($(REGPRE_FIXTURES),)
REGPRE_FIXTURES := $(shell cd ../shared/fixtures 2>/dev/null && pwd)
endif
ifneq ($(REGPRE_DATA),)
export REGPRE_DATA
endif
ifneq ($(REGPRE_FIXTURES),)
export REGPRE_FIXTURES
endif

.DEFAULT_GOAL := help
.PHONY: help setup test long-test check reproduce tables dry-run bench slurm-test scale-test gpu-check faults lab docs prepare release canary clean audit mutants determinism fuzz

help:
	@echo 'make setup       the environment: .venv, from constraints.txt'
	@echo 'make test        every notebook, the guards and a tiny reproduction'
	@echo 'make long-test   the same and what takes longer (25 minutes)'
	@echo 'make check       while editing: export, clean, lint, run the changed pages   [PAGE=07_losses]'
	@echo 'make mutants     how many small faults, planted in losses, metrics, warps and statistics, the tests notice (an hour)'
	@echo 'make determinism whether runs of one training end with the same bits, in results/faults (a minute)'
	@echo 'make reproduce   train, evaluate, tables and figures   [PROFILE=$(PROFILE)] [DATA=$(DATA)] [SEED=$(SEED)]'
	@echo 'make tables      tables and figures of the runs that are finished or stored; trains nothing   [PROFILE=night] [DATA=hippocampus]'
	@echo 'make dry-run     build every run at full size and take one step of it, on made-up files    [PROFILE=paper] [DATA=ixi]'
	@echo 'make bench       time and memory beside MONAI, neurite and voxelmorph, speed of reading, in results/bench (15 minutes)'
	@echo 'make slurm-test  the smoke reproduction through a SLURM that the test starts (root, slurm-wlm and munge)'
	@echo 'make scale-test  two processes for a run, SLURM on this machine, 1,000 pairs, 5,000 volumes (30 minutes)'
	@echo 'make gpu-check   on one GPU: tests, speed and runs of the profile gpu, in runs/gpu-check   [DATA=hippocampus] [LIMIT=$(LIMIT)]'
	@echo 'make faults      kills and other faults in the middle of work, bad and hostile files, in results/faults (15 minutes)'
	@echo 'make fuzz        feed readers what a fuzzer makes of bad files, each for SECONDS, in results/faults   [SECONDS=600]'
	@echo 'make lab         the notebooks in JupyterLab; a tour is open'
	@echo 'make docs        the site, in _docs/html'
	@echo 'make prepare     after editing notebooks: export, clean, README, test'
	@echo 'make release     sdist and wheel in dist/, installed and used in a clean environment'
	@echo 'make audit       whether a version in constraints.txt has a known weakness; asks PyPI'
	@echo 'make canary      whether nbdev 3 exports the same modules'
	@echo 'make clean       remove what tests and docs leave behind (not .venv, runs or results)'
	@echo
	@echo 'PYTHON=...       the interpreter for .venv: Python 3.11 or 3.12'
	@echo 'TORCH=...        the PyTorch to install, by default $(TORCH)'

setup: .venv/.ready

# torch comes first and alone, so that TORCH decides the build and `torch>=2.6` is already met afterwards.
.venv/.ready: settings.ini setup.py constraints.txt
	@test -n '$(PYTHON)' || { echo 'make setup: no Python 3.11 or 3.12 found; name one: make setup PYTHON=/path/to/python3.11' >&2; exit 2; }
	@echo 'setting up .venv with $(PYTHON) (a few minutes, once)'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $(TORCH)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[dev,fast,baselines]' -c constraints.txt
	@touch .venv/.ready

test: setup
	@$(RUN)/python -m pytest tests

# What takes minutes and seldom breaks: the GPU script on a CPU, JupyterLab, a cohort that is installed, studies anew.
long-test: setup
	@LONG_TESTS=1 $(RUN)/python -m pytest tests

ALWAYS := test_sync or test_imports_go_down or test_numbers
EACH   := test_runs or test_clean or test_opening or test_documented or test_safe or test_no_machine_paths

check: setup
	@$(RUN)/nbdev_export
	@$(RUN)/nbdev_clean
	@$(RUN)/python tools/readme.py
	@$(RUN)/ruff check .
	@$(RUN)/python -m pytest -n 0 tests/test_notebooks.py \
		-k '$(ALWAYS)$(foreach page,$(PAGE), or ($(page) and ($(EACH))))'

# Goes on where it stopped.
mutants: setup
	@$(RUN)/python tools/mutants.py run --seconds 1e9
	@$(RUN)/python tools/mutants.py write

determinism: setup
	@$(RUN)/python tools/determinism.py

reproduce: setup
	@$(RUN)/regpre reproduce --profile $(PROFILE) --data $(DATA) --seed $(SEED)

# Here the defaults are those of the stored results.
tables: setup
	@$(RUN)/regpre tables --profile $(if $(filter file,$(origin PROFILE)),night,$(PROFILE)) \
		--data $(if $(filter file,$(origin DATA)),hippocampus,$(DATA)) --seed $(SEED)

# Of this target alone the defaults are the paper's profile and data.
dry-run: setup
	@$(RUN)/regpre dry-run --profile $(if $(filter file,$(origin PROFILE)),paper,$(PROFILE)) \
		--data $(if $(filter file,$(origin DATA)),ixi,$(DATA)) --seed $(SEED)

.venv/.audit: .venv/.ready
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[audit]' -c constraints.txt
	@touch .venv/.audit

# A package of which nothing could be learnt is a failure, too.
audit: .venv/.audit
	@$(RUN)/pip-audit -r constraints.txt --no-deps --disable-pip --strict --progress-spinner off

# The peers are not needed for anything else.
.venv/.bench: .venv/.ready
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[bench]' -c constraints.txt
	@touch .venv/.bench

bench: .venv/.bench
	@$(RUN)/python benchmarks/bench.py
	@$(RUN)/python benchmarks/feeding.py

# The executor is not needed for anything else.
.venv/.cluster: .venv/.ready
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[cluster]' -c constraints.txt
	@touch .venv/.cluster

# SLURM is left out, with a reason, where it is not installed.
scale-test: slurm-test
	@$(RUN)/python -m pytest -n 0 tests/scale_ranks.py
	@$(RUN)/python benchmarks/many_pairs.py
	@$(RUN)/python benchmarks/large_cohort.py

slurm-test: .venv/.cluster
	@REGPRE_SLURM_TEST=1 $(RUN)/python -m pytest -n 0 -rs tests/slurm

# Here the default data are the real images; LIMIT is in seconds.
gpu-check: setup
	@$(RUN)/python tools/gpu_check.py run runs/gpu-check --limit $(LIMIT) \
		--data $(if $(filter file,$(origin DATA)),hippocampus,$(DATA))

faults: setup
	@$(RUN)/python tools/faults.py; faults=$$?; \
		$(RUN)/python tests/corpus.py && $(RUN)/python tools/robustness.py && exit $$faults

# atheris is not needed for anything else, and there is none but for Linux.
.venv/.fuzz: .venv/.ready
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[fuzz]' -c constraints.txt
	@touch .venv/.fuzz

fuzz: .venv/.fuzz
	@$(RUN)/python tools/fuzz.py --seconds $(SECONDS)

lab: setup
	@$(RUN)/python -m jupyter lab nbs/tour.ipynb

docs: setup
	@$(RUN)/python tools/docs.py

prepare: setup
	@$(RUN)/nbdev_export
	@$(RUN)/nbdev_clean
	@$(RUN)/python tools/readme.py
	@$(RUN)/python -m pytest tests

release: setup
	@$(RUN)/python tools/release.py

canary: setup
	@$(RUN)/python tools/canary.py

clean:
	@rm -rf build dist _docs _proc .pytest_cache .ruff_cache .mypy_cache .cache
	@find nbs regpre_nb tests tools docs \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
