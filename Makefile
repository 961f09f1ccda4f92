# Two commands on a fresh machine with make and Python 3.11 or newer:
#   make demo   install patchad and see it screen films it draws itself
#   make test   install the development extras too, and run every check of the code
# and on Debian, as root:
#   make conformance   check DICOM objects with dicom3tools, dcmtk and Orthanc, installed if missing

VENV := .venv
BIN := $(VENV)/bin
# The first Python that is new enough; another: make PYTHON=/path/to/python demo
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
JOBS ?= 2
export OMP_NUM_THREADS ?= 2
# Threads that wait do not spin: on a busy machine that costs minutes
export OMP_WAIT_POLICY ?= PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test conformance check format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/patchad demo --out demo --overwrite

test: $(VENV)/.installed-dev check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS)

# Against validators, a renderer and a server that others wrote. 5: pytest found no test to run.
conformance: $(VENV)/.installed-dev
	.ci/conformance-parts
	OMP_NUM_THREADS=1 .ci/alone $(BIN)/pytest -m conformance tests/test_conformance.py \
		|| [ $$? -eq 5 ]

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Editable, so that neither install is ever older than the sources and both can share one .venv.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(call install,.)

$(VENV)/.installed-dev: pyproject.toml constraints.txt
	$(call install,.[dev])
	touch $(VENV)/.installed

define install
	@test -n "$(PYTHON)" || { echo "patchad needs Python 3.11 or newer, and none is on the PATH:" \
		"install one, or name it: make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "patchad needs" \
		"Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1): name another with" \
		"make PYTHON=/path/to/python"; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '$(1)'
	touch $@
endef
