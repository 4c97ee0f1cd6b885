# Everything runs in .venv, which the first call makes. PYTHON picks the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready

.PHONY: demo test slow check bench clean
demo: $(STAMP)  ## train SeqGAN on a synthetic oracle, about a minute beside the installation
	$(BIN)/seqforge train seqgan --recipe demo --out runs/demo$(if $(wildcard runs/demo),-$(shell date +%H%M%S))

test: $(STAMP)  ## the fast tests
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n auto --dist worksteal

slow: $(STAMP)  ## the tests that take minutes
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m slow

check: $(STAMP)  ## format, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n auto --dist worksteal

bench: $(STAMP)  ## times beside the plain PyTorch way and the machine's limit
	$(BIN)/python -m benchmarks

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("seqforge needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

clean:  ## remove the environment and caches, never runs/
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
