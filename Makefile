# Build time: one command for each thing that is done with the project. "make" lists them.
# Settings: PYTHON (to make the environment with), ARGS (for pytest, and for the scripts).

PYTHON ?= python3
VENV ?= .venv
# One more than there are processors: many tests wait for a process or a time limit.
JOBS ?= $(shell expr $$(nproc) + 1)
ARGS ?=

# Without bytecode each command that a test runs compiles 60 modules, which doubles its time.
unexport PYTHONDONTWRITEBYTECODE

PY := $(VENV)/bin/python
RUN := PATH="$(abspath $(VENV))/bin:$$PATH"
INSTALLED := $(VENV)/.stamp
DEMO := build/demo
SITE := build/site-tools
PAYLOAD := .editable/instar/guest/info.elf
PLANNER := build/planner/_planner.py
BUILD_SCRIPTS := $(wildcard scripts/build_*.py)
# Folders too, which are newer where a file has gone; guest, in which no file lies, is a goal's name.
SOURCES := $(shell find abi shared guest -name '*.[chS]' -o -name '*.ld' -o -type d -not -name __pycache__ -not -name guest)
# Where there is no gcc, the C compiler that the build asks for is needed here too.
ZIGLANG := $(if $(shell command -v gcc),,$(shell sed -n 's/^ZIGLANG = "\(.*\)"/\1/p' scripts/build_guest.py))

# Debian has the newest Python. The oldest one has to be on PATH or under pyenv, or is left out.
OLDEST := 3.10
NEWEST := 3.14
PYTHONS := $(OLDEST) $(NEWEST)
# What else there is tests the planner and compares results, which no interpreter changes.
INTERPRETER_TESTS := $(addprefix tests/,unit confinement sandbox locking places contract)

# What the goals need of the machine, by the names of scripts/require; all of it is asked for first.
NEEDS_demo := python venv gcc kvm
NEEDS_test := compiler strace losetup cryptsetup allocators
NEEDS_pythons := $(NEEDS_test)
NEEDS_environments := python venv
NEEDS_planner := compiler
NEEDS_collect := compiler
NEEDS_site := python venv
NEEDS_mutants := $(NEEDS_test)
NEEDS_fuzz := compiler $(if $(filter-out planner inspect repair,$(firstword $(ARGS))),,clang)
IN_VENV := $(filter-out demo qemu downloads environments clean,$(MAKECMDGOALS))
NEEDS := $(if $(and $(IN_VENV),$(if $(wildcard $(INSTALLED)),,new)),python venv) $(foreach goal,$(MAKECMDGOALS),$(NEEDS_$(goal)))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help needs demo test pythons collect dev guest planner qemu downloads environments format check fuzz mutants bench dist site clean

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

needs:
	@scripts/require 'make $(MAKECMDGOALS)' $(NEEDS)

demo: $(DEMO)/.stamp ## install into an environment of its own, and amend a sample image
	@$(DEMO)/bin/python scripts/demo $(ARGS)

$(DEMO)/.stamp: pyproject.toml $(shell find abi bin guest scripts/*.py shared vmm -type f -not -name '*.pyc') | needs
	@$(PYTHON) -m venv --clear $(DEMO)
	@$(DEMO)/bin/python -m pip install -q --disable-pip-version-check .
	@touch $@

test: dev $(PAYLOAD) planner qemu ## run all tests
	@$(PY) -m pytest -n $(JOBS) --dist worksteal -rfEs $(ARGS)

# Run the make goal $(1) in the environment of each Python, with $(2).
define each_python
	@for version in $(PYTHONS); do \
		if python=$$(scripts/fetch_python $$version | tail -n 1) && [ -n "$$python" ]; then \
			echo "$(1) on Python $$version"; \
			$(MAKE) --no-print-directory $(1) PYTHON="$$python" VENV=build/venv-$$version $(2) || exit 1; \
		elif [ $$version = $(NEWEST) ]; then \
			exit 1; \
		fi; \
	done
endef

pythons: | needs ## run the tests that depend on the interpreter on the oldest and the newest Python
	$(call each_python,collect test,ARGS='-m "not any_python" $(INTERPRETER_TESTS)')

# Of the other tests too: on an old Python a file may be no test at all.
collect: dev planner ## see that all tests can be read
	@mkdir -p build && $(PY) -m pytest --collect-only -qq >build/collected || { tail -n 20 build/collected; exit 1; }

environments: downloads $(PAYLOAD) ## make the environments of "make pythons"
	$(call each_python,dev)

dev: $(INSTALLED) ## make .venv, with an editable install and the tools

# uv takes a third of pip's time for it, and the environments of several Pythons share its downloads.
$(INSTALLED): pyproject.toml scripts/hatch_build.py bin/instar | needs
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo 'installing into $(VENV)'
	@$(PY) -m pip install -q --disable-pip-version-check -U uv
	@VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip install -q -e . --group dev $(ZIGLANG)
	@touch $@

define compile_payload
	@$(PY) scripts/build_abi.py
	@$(PY) scripts/build_guest.py
endef

guest: $(INSTALLED) ## compile the payload and the ABI's Python view for the editable install
	$(compile_payload)

# The last image, as none is older. No environment's Python changes its bytes, nor the planner's.
$(PAYLOAD): $(BUILD_SCRIPTS) $(SOURCES) | $(INSTALLED)
	$(compile_payload)

planner: $(PLANNER) ## compile the planner as a library for tests

$(PLANNER): $(BUILD_SCRIPTS) $(SOURCES) | $(INSTALLED)
	@$(PY) scripts/build_planner.py

qemu: | needs ## unpack the versions of qemu-img that instar is compared with
	@scripts/fetch_qemu

downloads: qemu ## have all that the tests need from elsewhere, before they begin
	@scripts/fetch_python $(NEWEST) >/dev/null

format: dev ## rewrite the Python sources in the project's style
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

check: dev $(PAYLOAD) ## style, types, spelling and memory budgets; changes nothing
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/codespell
	$(PY) scripts/check_binary_sizes

fuzz: dev $(PAYLOAD) planner ## run a fuzzer: ARGS='planner', 'inspect', 'repair', 'device', 'sandbox', 'contract', 'alias', 'luks' or 'worker', see docs/fuzzing.md
	@$(RUN) scripts/fuzz $(or $(ARGS),planner)

mutants: dev $(PAYLOAD) planner ## break the code in 200 places, and show what the fast tests miss; half an hour and more
	@$(PY) scripts/mutants $(ARGS)

bench: dev $(PAYLOAD) qemu ## measure instar beside qemu-img
	@$(RUN) scripts/benchmark $(ARGS)

dist: dev ## build the sdist and the wheel
	@$(PY) -m build

site: $(SITE)/.stamp $(PAYLOAD) ## make the website in build/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --strict

$(SITE)/.stamp: pyproject.toml | needs
	@$(PYTHON) -m venv --clear $(SITE)
	@$(SITE)/bin/python -m pip install -q --disable-pip-version-check uv
	@VIRTUAL_ENV=$(SITE) $(SITE)/bin/uv pip install -q --group site
	@touch $@

clean: ## remove what was built, but not .venv, nor .editable, which it imports from
	rm -rf build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
