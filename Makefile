# Two commands do the main job: `make demo` and `make test`. Both make the environment first.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# A data set in R2Gen's format for the demo, e.g. make demo DATA=path/to/iu_xray; phantoms when empty.
DATA ?=
DEMO ?= demo
STAGES ?= runs/stages
SEED ?= 0

.PHONY: demo stages test test-slow coverage lint types format clean

demo: $(VENV)/.installed
	$(BIN)/mambaxray demo --output $(DEMO) --seed $(SEED) $(if $(DATA),--data $(DATA))

# The three stages of MambaXray-VL on phantoms, and fine-tuning from scratch beside it, with three seeds.
stages: $(VENV)/.installed
	$(BIN)/python benchmarks/bench_stages.py --output $(STAGES)

# Two files of tests at a time, each on one core: most start processes, which wait more than they compute.
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

# Coverage takes folders, and setup.cfg maps each of these into the package.
ROOMS := configuration data evaluation mambaxray modeling_mambaxray processing train

# Lines that no fast test runs, by file. Processes that tests start are not counted.
coverage: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile $(ROOMS:%=--cov=%) --cov-report=term-missing:skip-covered

lint: $(VENV)/.installed types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy reads the package as it is installed, for which setup.cfg maps the folders: build/types holds a copy.
types: $(VENV)/.installed
	rm -rf build/types
	$(BIN)/python -c "import setuptools; setuptools.setup()" --quiet build_py --build-lib build/types
	cd build/types && $(abspath $(BIN))/python -m mypy --config-file ../../pyproject.toml --cache-dir ../mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# PyTorch first: the plain package index offers a small CPU build of this version, while a dependency that asks for
# any torch brings gigabytes of CUDA. An installation that is already there (a GPU build, say) is kept.
$(VENV)/.installed: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install "torch==2.13.0"
	$(BIN)/pip install -e ".[dev,native,eval,rl]"
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info
