# Everything a contributor runs. Needs make and Python 3.11 or newer; the rest comes from pyproject.toml.

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

# The Python to build with; without it the newest of these on PATH that is 3.11 or newer.
PYTHON ?=
PYTHONS := $(if $(PYTHON),$(PYTHON),python3.14 python3.13 python3.12 python3.11 python3)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Set, it has each process that starts compile weightd's sources anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo test stress systemd-test check bench dist clean
.PHONY: install-systemd uninstall-systemd

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP)  ## Create .venv with everything that needs no GPU.

demo: $(STAMP)  ## See one copy of a model's weights serve several processes.
	@$(BIN)/weightd demo

# In a process for each core, up to eight: each has daemons, stagers and workers of its own.
test: $(STAMP)  ## Run the tests: all but the long ones.
	@$(BIN)/pytest -q -n auto --maxprocesses 8 --dist worksteal \
	    -m 'not stress and not systemd'

stress: $(STAMP)  ## Run the long ones: many rounds of one race, many damaged files, much memory.
	@$(BIN)/pytest -m stress

systemd-test: $(STAMP)  ## Run the tests of the service in a Debian that boots; needs root and debootstrap.
	@$(BIN)/python -m tests.systemd.debian
	@$(BIN)/pytest -m systemd -rs tests/systemd

check: $(STAMP)  ## Check the format, the rules, the types and the architecture.
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/pytest -q tests/test_architecture.py

bench: $(STAMP)  ## Measure what weightd costs, against the limits of this machine.
	@$(BIN)/weightd bench

dist: $(STAMP)  ## Build the sdist, and the wheel from it, into dist/.
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist .

# PREFIX, DESTDIR, WHEEL and PYTHON reach it, and are explained at its head.
install-systemd:  ## Install weightd as a service of this machine; as root.
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' WHEEL='$(WHEEL)' PYTHON='$(PYTHON)' \
	    systemd/install.sh install

uninstall-systemd:  ## Remove that service, and all that it holds.
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' systemd/install.sh uninstall

clean:  ## Remove .venv and everything built.
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./.git -prune -o -type d -name __pycache__ -exec rm -rf {} +

# Made again only when pyproject.toml changes.
$(STAMP): pyproject.toml
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	    for python in $(PYTHONS); do \
	        if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	            found=$$python; break; \
	        fi; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo "weightd needs Python 3.11 or newer; looked for: $(PYTHONS)." >&2; \
	        echo "Install one, or name it: make setup PYTHON=/path/to/python3" >&2; \
	        exit 1; \
	    fi; \
	    if ! "$$found" -c 'import ensurepip, venv' 2>/dev/null; then \
	        version=$$("$$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	        echo "$$found cannot make a virtual environment: it has no ensurepip." >&2; \
	        echo "On Debian or Ubuntu: apt-get install python$$version-venv" >&2; \
	        exit 1; \
	    fi; \
	    echo "Creating $(VENV) with $$("$$found" -V)"; \
	    "$$found" -m venv --clear $(VENV); \
	}
	$(BIN)/python -m pip install --quiet --editable '.[test,check,bench]'
	@touch $@
