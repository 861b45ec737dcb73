# make demo [DATA=path] [DEMO=folder]   the whole loop, command by command, by default in demo or runs/NAME
# make test               all ordinary tests, with ruff and mypy
# make docs              the documentation in build/docs, broken links refused
# make wheel             dist/rrise-VERSION-py3-none-any.whl, for a robot: rrise is in no package index
# make dist             dist/ with the source distribution and the wheel made from it, both checked
# make test-all           the long versions as well: kills, fuzzing, statistics
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= digits
STAMP := $(VENV)/installed
CHECK := import sys; old = sys.version_info < (3, 11); \
	sys.exit(sys.executable + " is older than Python 3.11, expected 3.11 or newer: make PYTHON=python3.11" if old else 0)

.PHONY: demo test test-all lint docs wheel dist clean

demo: $(STAMP)
	$(BIN)/python -m rrise.trainer demo $(if $(DEMO),"$(DEMO)") --data "$(DATA)"

test: $(STAMP) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test-all: $(STAMP) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "long or not long"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(STAMP)
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w dist .

dist: $(STAMP)
	$(BIN)/python -c "from setuptools.build_meta import build_sdist; build_sdist('dist')"
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w dist dist/rrise-*.tar.gz
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_wheel.py

docs: $(STAMP)
	$(BIN)/python -m mkdocs build --strict -f docs/mkdocs.yml

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c '$(CHECK)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,runtimes]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
