# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One thread each: the tests' models are too small for more, and they run side by side.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs
# With pip this resolves to a CPU build; the package itself runs on torch 2.9 and later.
TORCH ?= torch==2.13.0
OUT ?= demo-output
MODEL ?= nano
export ALPAMAYO_RT_GOLDEN ?= $(abspath ../shared/golden)

.PHONY: help demo test test-all lint clean

help:
	@echo "make demo      set up, drive three clips with the demo model, write a picture of each to $(OUT)/"
	@echo "make test      set up and run the tests (minutes)"
	@echo "make test-all  the same with the long ones"
	@echo "make lint      formatting, lint, types, spelling"

$(VENV)/created:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	@touch $@

$(VENV)/demo-installed: $(VENV)/created pyproject.toml
	@echo "installing (a minute or two) …"
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)" -e ".[data]"
	@touch $@

$(VENV)/test-installed: $(VENV)/demo-installed
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)" -e ".[data,export,onnxruntime,serve,dev]"
	@touch $@

$(VENV)/all-installed: $(VENV)/test-installed
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)" -e ".[data,eval,export,onnxruntime,tensorrt,serve,nvrtc,browser,dev]"
	@touch $@

demo: $(VENV)/demo-installed
	@mkdir -p $(OUT)
	$(BIN)/alpamayo-rt world make --clips 3 --seed 61 --out $(OUT)/dataset
	$(BIN)/alpamayo-rt world drive --model $(MODEL) --dataset-root $(OUT)/dataset --out $(OUT)/pictures

# Files of tests run side by side; what measures times runs by itself.
test: $(VENV)/test-installed
	$(PYTEST) -n auto --dist loadfile

test-all: $(VENV)/all-installed
	ALPAMAYO_RT_TEST_ALL=1 $(PYTEST) -n auto --dist loadfile -m "not alone"
	ALPAMAYO_RT_TEST_ALL=1 $(PYTEST) -m alone

lint: $(VENV)/test-installed
	$(BIN)/ruff check alpamayo_rt tests conftest.py
	$(BIN)/ruff format --check alpamayo_rt tests conftest.py
	$(BIN)/mypy
	$(BIN)/codespell alpamayo_rt tests docs *.md Makefile

clean:
	rm -rf $(VENV) $(OUT)
