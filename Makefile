# make demo: install, run the quickstart grid, write the report.   make test: the whole test suite.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test check format data clean

demo: $(READY) data
	$(BIN)/clframe grid conf/grid/quickstart.yaml
	$(BIN)/clframe report quickstart
	@echo "open the MLflow UI:  $(BIN)/clframe ui"

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

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# Fashion-MNIST comes as a Debian package; without it the scenarios over it are left out of the demo
data:
	@[ -d /usr/share/datasets/fashion-mnist ] || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	    apt-get update -qq && apt-get install -y -qq dataset-fashion-mnist; } || \
	  echo "Fashion-MNIST is not here; get it with: sudo apt-get install dataset-fashion-mnist"

clean:
	rm -rf .venv build dist *.egg-info
