# Every target does its own set-up: Python 3.11 or newer and make are all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := runs/demo

.PHONY: demo test lint format bench clean

# The learning rate is one at which CABS moves the batch size; at 0.1 it would stay at its minimum. One torch thread:
# for a model this small two only get in each other's way.
demo: export OMP_NUM_THREADS = 1
demo: $(READY)
	rm -rf $(DEMO)
	$(BIN)/gradbatch train digits --rule fixed --batch-size 16 --lr 1.0 --epochs 30 --seed 0 --out $(DEMO)/fixed
	$(BIN)/gradbatch train digits --rule cabs --batch-size 16 --lr 1.0 --epochs 30 --seed 0 --out $(DEMO)/cabs
	$(BIN)/gradbatch report $(DEMO)/fixed $(DEMO)/cabs -o $(DEMO)/report.html
	@echo "Open $(CURDIR)/$(DEMO)/report.html in a browser."

# One torch thread per process: the processes share the cores.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadgroup

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Peers install without their dependencies, which would bring another torch.
bench: $(READY)
	$(BIN)/pip install --quiet --no-deps -c constraints.txt opacus backpack-for-pytorch unfoldNd
	$(BIN)/pip install --quiet -c constraints.txt einops opt_einsum tqdm scipy
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/stream.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "gradbatch needs Python 3.11 or newer: make PYTHON=python3.11 ..."'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet -c constraints.txt -e '.[cli]' --group test --group lint
	touch $@

clean:
	rm -rf $(VENV) runs dist .pytest_cache .ruff_cache .hypothesis
