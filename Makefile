# Each target sets up what it needs. `make` alone lists the targets.
PYTHON  ?= $(shell for p in python3.12 python3.11 python3; do \
             $$p -c 'import ensurepip, sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null \
             && echo $$p && break; done)
TORCH   ?= torch==2.13.0
PROFILE ?= cpu
DATA    ?= template
SEED    ?= 0
LIMIT   ?= 520

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
.PHONY: help setup test reproduce tables dry-run bench gpu-check lab docs prepare clean

help:
	@echo 'make setup       the environment: .venv, from constraints.txt'
	@echo 'make test        every notebook, the guards and a tiny reproduction'
	@echo 'make reproduce   train, evaluate, tables and figures   [PROFILE=$(PROFILE)] [DATA=$(DATA)] [SEED=$(SEED)]'
	@echo 'make tables      tables and figures of the runs that are finished or stored; trains nothing   [PROFILE=night] [DATA=hippocampus]'
	@echo 'make dry-run     build every run at full size and take one step of it, on made-up files    [PROFILE=paper] [DATA=ixi]'
	@echo 'make bench       time and memory beside MONAI, neurite and voxelmorph, speed of reading, in results/bench (15 minutes)'
	@echo 'make gpu-check   on one GPU: tests, speed and runs of the profile gpu, in runs/gpu-check   [DATA=hippocampus] [LIMIT=$(LIMIT)]'
	@echo 'make lab         the notebooks in JupyterLab; a tour is open'
	@echo 'make docs        the site, in _docs/html'
	@echo 'make prepare     after editing notebooks: export, clean, README, test'
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

# The peers are not needed for anything else.
.venv/.bench: .venv/.ready
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[bench]' -c constraints.txt
	@touch .venv/.bench

bench: .venv/.bench
	@$(RUN)/python benchmarks/bench.py
	@$(RUN)/python benchmarks/feeding.py

# Here the default data are the real images; LIMIT is in seconds.
gpu-check: setup
	@$(RUN)/python tools/gpu_check.py run runs/gpu-check --limit $(LIMIT) \
		--data $(if $(filter file,$(origin DATA)),hippocampus,$(DATA))

lab: setup
	@$(RUN)/python -m jupyter lab nbs/tour.ipynb

docs: setup
	@$(RUN)/python tools/docs.py

prepare: setup
	@$(RUN)/nbdev_export
	@$(RUN)/nbdev_clean
	@$(RUN)/python tools/readme.py
	@$(RUN)/python -m pytest tests

clean:
	@rm -rf _docs _proc .pytest_cache .ruff_cache .mypy_cache .cache
	@find nbs regpre_nb tests tools docs \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
