# Only Python 3.11 or newer and make are assumed: `make demo` fetches the rest from PyPI into .uv/ and .venv/.
# Choose an interpreter with PYTHON=…; pass arguments to a command with ARGS=….

.DEFAULT_GOAL := help
SHELL := /bin/sh

PYTHON ?= python3
UV_VERSION := 0.13.8
UV_STAMP := .uv/uv-$(UV_VERSION).stamp
VENV_STAMP := .venv/synced.stamp
TRITON_STAMP := .venv-triton/synced.stamp
BIN := .venv/bin
# A file's tests stay together, files in the order that tests/conftest.py gives; each worker has services of its own.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# A PYTHON that was asked for is taken or refused; the default may fall back on a versioned name.
ifeq ($(origin PYTHON),file)
PYTHONS := $(PYTHON) python3.13 python3.12 python3.11
else
PYTHONS := $(PYTHON)
endif

# Caches go below the project where the usual place cannot be written.
CACHE_HOME := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)
ifndef UV_CACHE_DIR
ifneq ($(shell mkdir -p "$(CACHE_HOME)/uv" 2>/dev/null && test -w "$(CACHE_HOME)/uv" && echo yes),yes)
export UV_CACHE_DIR := $(CURDIR)/.uv/cache
export PIP_NO_CACHE_DIR := 1
endif
endif

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: $(VENV_STAMP) ## Make .venv with all that is needed, and nothing else

.PHONY: demo
demo: $(VENV_STAMP) ## Start everything on example traffic (ARGS=…)
	$(BIN)/pointsman demo $(ARGS)

.PHONY: up
up: $(VENV_STAMP) ## Start the control plane, workers and an edge (ARGS=…)
	$(BIN)/pointsman up $(ARGS)

.PHONY: test
test: $(VENV_STAMP) $(TRITON_STAMP) ## Run the tests (ARGS="-k name")
	$(BIN)/pytest $(PARALLEL) $(ARGS)

.PHONY: check
check: $(VENV_STAMP) $(TRITON_STAMP) ## Format, lint, types, import contracts and tests: what CI runs
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest $(PARALLEL) $(ARGS)

.PHONY: format
format: $(VENV_STAMP) ## Format, and fix what can be fixed
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

.PHONY: bench
bench: $(VENV_STAMP) ## Run the benchmarks; each prints JSON (ARGS=…)
	$(BIN)/python -m bench $(ARGS)

.PHONY: soak
soak: $(VENV_STAMP) ## Run the long tests
	$(BIN)/pytest -m soak $(ARGS)

.PHONY: verify-rocm
verify-rocm: $(VENV_STAMP) $(TRITON_STAMP) ## On an AMD card: check what is claimed of it (ARGS=--json)
	$(BIN)/python -m kernels.verify_rocm $(ARGS)

.PHONY: clean
clean: ## Remove caches and build outputs; the environments stay
	rm -rf dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache storage/_migrations
	find . -name __pycache__ -type d -not -path './.venv/*' -not -path './.venv-triton/*' -not -path './.uv/*' -prune -exec rm -rf {} +

$(UV_STAMP): Makefile
	@set -e; \
	for python in $(PYTHONS); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "Pointsman needs Python 3.11 or newer; tried: $(PYTHONS)." >&2; \
	  echo "Install one, or name it: make $(or $(MAKECMDGOALS),demo) PYTHON=/path/to/python3.11" >&2; exit 1; \
	fi; \
	if [ ! -x .uv/bin/python ] || ! .uv/bin/python -c '' 2>/dev/null; then \
	  "$$found" -m venv --clear .uv || { \
	    echo "'$$found -m venv .uv' failed: on Debian and Ubuntu install python3-venv." >&2; exit 1; }; \
	fi; \
	.uv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	@touch $@

$(VENV_STAMP): $(UV_STAMP) pyproject.toml uv.lock
	@$(BIN)/python -c '' 2>/dev/null || .uv/bin/uv venv --quiet --clear --no-python-downloads --python .uv/bin/python .venv
	.uv/bin/uv sync --quiet --frozen --all-extras --no-extra triton
	@touch $@

# Triton wants an older numpy than the rest, so it lives apart. Only tests and the builder of GPU kernels need it.
$(TRITON_STAMP): $(UV_STAMP) pyproject.toml uv.lock
	@.venv-triton/bin/python -c '' 2>/dev/null || .uv/bin/uv venv --quiet --clear --no-python-downloads --python .uv/bin/python .venv-triton
	UV_PROJECT_ENVIRONMENT=.venv-triton .uv/bin/uv sync --quiet --frozen --extra triton
	@touch $@
