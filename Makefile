# make run     pre-train on the embedded set, evaluate, print a table
# make test    the tests; make test-all also those of all meshes, which take longer
# make lint    formatting, linting, types
#
# Everything is installed into .venv by the first of them; nothing else is touched.
# METHOD names a file of configs/, ARG its argument:
#   make run METHOD=jepa ARG=ptbxl,root=/data

METHOD ?= jepa
ARG ?=
WORKDIR ?= runs/$(METHOD)$(if $(ARG),-$(shell echo '$(ARG)' | tr -cs 'A-Za-z0-9_.=\n-' '-'))
TEST_WORKERS ?= 2
PYTHON3 ?= python3

# A file's tests stay together, because they share what is slow to make.
PYTEST := -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

PYTHON := .venv/bin/python
CONFIG := configs/$(METHOD).py$(if $(ARG),:$(ARG))
CODE := ecgssl_jax configs launch benchmarks tests setup.py

.PHONY: run test test-all lint format clean

run: .venv/installed
	$(PYTHON) -m ecgssl_jax.main --config='$(CONFIG)' --workdir='$(WORKDIR)'
	$(PYTHON) -m ecgssl_jax.evaluate --workdir='$(WORKDIR)'

test: .venv/installed-test
	$(PYTHON) $(PYTEST) $(PYTEST_ARGS)

test-all: .venv/installed-test
	$(PYTHON) $(PYTEST) -m 'slow or not slow' $(PYTEST_ARGS)

lint: .venv/installed-test
	.venv/bin/ruff check $(CODE)
	.venv/bin/ruff format --check $(CODE)
	.venv/bin/pyright --pythonpath $(PYTHON)

format: .venv/installed-test
	.venv/bin/ruff check --fix $(CODE)
	.venv/bin/ruff format $(CODE)

clean:
	rm -rf .venv

.venv/installed: setup.py constraints.txt
	@echo "installing into .venv: a few minutes, once"
	test -x $(PYTHON) || $(PYTHON3) -m venv .venv
	$(PYTHON) -m pip install --quiet -c constraints.txt -e .
	@touch $@

.venv/installed-test: .venv/installed
	$(PYTHON) -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@
