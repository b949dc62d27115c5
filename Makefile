# make demo: install, run the quickstart grid, write its report.   make test: the whole test suite.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
FASHION := /usr/share/datasets/fashion-mnist
RUNS := $(or $(CLFRAME_RUNS),runs)
# without Fashion-MNIST the demo runs over the digits alone, which come with scikit-learn
QUICKSTART = conf/grid/quickstart.yaml $(if $(wildcard $(FASHION)),,scenario=[split_digits])

.PHONY: demo test check format data clean

demo: $(READY) data
	@$(MAKE) --no-print-directory quickstart

.PHONY: quickstart
quickstart:
	$(BIN)/clframe --runs $(RUNS) grid $(QUICKSTART)
	$(BIN)/clframe --runs $(RUNS) report quickstart
	@echo "open the MLflow UI:  $(BIN)/clframe --runs $(RUNS) ui"

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Debian has venv in a package of its own; where it is missing, pip brings virtualenv
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  $(PYTHON) -m pip install --quiet --user --break-system-packages virtualenv && \
	  $(PYTHON) -m virtualenv --quiet .venv; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

data:
	@[ -d $(FASHION) ] || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	    apt-get update -qq && apt-get install -y -qq dataset-fashion-mnist >/dev/null; } || \
	  echo "Fashion-MNIST is not here; get it with: sudo apt-get install dataset-fashion-mnist"

clean:
	rm -rf .venv build dist *.egg-info
