# make quickstart   a virtual environment, the package in it, and the main job on the embedded model, offline
# make test         the same environment with the development tools, then every check and test
# make lint         ruff (rules and format) and mypy alone;  make format  lets ruff mend what it can
# make docs         the pages of docs/ and the API reference as a site: open build/site/index.html
#
# Another interpreter or place:  make test PYTHON=python3.12 VENV=/tmp/venv

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

# Stamps: the environment is installed once, and again when what it is made from has changed.
RUNTIME = $(VENV)/.installed
DEV = $(VENV)/.installed-dev

.DEFAULT_GOAL = test
.PHONY: quickstart test lint types format docs clean

quickstart: $(RUNTIME)
	$(BIN)/lightning-circuits fit --config quickstart.yaml

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(DEV) types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy reads folders, not setuptools' package-dir, so it is shown the installed shape as a tree of links.
types: $(DEV)
	rm -rf build/types && mkdir -p build/types/lightning_circuits
	cd build/types/lightning_circuits && ln -s $(addprefix ../../../,$(wildcard lightning_circuits/*) callbacks datamodules configs) .
	$(BIN)/mypy

# The search box of the site wants a server: python -m http.server --directory build/site
docs: types
	$(BIN)/mkdocs build --strict --quiet

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(RUNTIME): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "lightning-circuits needs Python 3.10 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e .
	@touch $@

$(DEV): $(RUNTIME)
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@
