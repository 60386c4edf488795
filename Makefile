# make venv   sets up .venv with everything          make demo [PREFIX=...]  the main job, with and without TensorRT
# make test   all tests (test-fast: without slow)    make lint               ruff, mypy, clang-format
# make bench  timings                                make wheel              sdist and wheel into dist/
# make docs   the documents as a site, in build/site
# make new-user [PYTHONS="python3.9 ..."]  what the README says, typed into a fresh environment of each Python
#
# PYTHON=... chooses the interpreter of a new .venv. From a fresh clone each target sets up what it needs.

PYTHON ?= python3
VENV ?= .venv
export VENV

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
LIBRARY := mxnet_trt_property/libmxnet_trt.so
CPP := $(wildcard cpp/*.cc cpp/*.h)

comma := ,
# TensorRT-RTX has wheels for this platform only; elsewhere its tests say why they are skipped.
EXTRAS := cpu,dev,examples,plot$(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),$(comma)rtx-cu12)

.PHONY: venv demo test test-fast lint format bench docs wheel new-user clean

venv: $(STAMP) $(LIBRARY)

$(STAMP): pyproject.toml setup.py mxnet_trt_property.pth Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77" wheel
	@# MXNet first: the build of the package needs its header. It asks for numpy<2, which Python 3.13 cannot have.
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then \
	    $(BIN)/python -m pip install --quiet --no-deps mxnet==1.9.1 && \
	    $(BIN)/python -m pip install --quiet "numpy>=2.1" "requests<3" "graphviz<0.9"; \
	else \
	    $(BIN)/python -m pip install --quiet mxnet==1.9.1; \
	fi
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[$(EXTRAS)]"
	touch $@

$(LIBRARY): $(CPP) setup.py | $(STAMP)
	$(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

demo: venv
	$(BIN)/python -m mxnet_trt_property demo $(if $(PREFIX),"$(PREFIX)")

test: venv
	ci/test.sh

test-fast: venv
	ci/test.sh -m "not slow"

lint: venv
	ci/lint.sh

format: venv
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(if $(CPP),$(BIN)/clang-format -i $(CPP))

bench: venv
	$(BIN)/python -m mxnet_trt_property bench $(if $(PREFIX),"$(PREFIX)")

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[docs]"
	touch $@

docs: venv $(DOCS_STAMP)
	$(BIN)/python ci/docs_site.py

wheel: venv
	rm -rf dist
	ci/build_wheel.sh dist

new-user: wheel
	$(BIN)/python ci/new_user.py $(PYTHONS)

clean:
	rm -rf build dist *.egg-info $(LIBRARY) .mypy_cache .pytest_cache .ruff_cache
