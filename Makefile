# What there is to do here. Each target does its own set-up.
#
# PYTHON=…       which interpreter makes .venv (3.11 or newer)
# GARRISON_HOME  where `make run` keeps its farm (./farm)
# FUZZ_SECONDS   how long each fuzz target runs (60)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
INSTALLED := $(VENV)/.installed
FUZZ_SECONDS ?= 60
PRODUCT := proto/garrison commander sentry_core sentry_rig sentry_asic rrc
# Tests, benchmarks and the quick start run on Linux only; what people install is checked for Windows too.
TYPED := $(PRODUCT) tests bench tools
# protoc finds its mypy plug-ins on PATH; OUT is where the stubs go.
PROTOC = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iproto --python_out="$$OUT" --grpc_python_out="$$OUT" \
	--mypy_out="quiet:$$OUT" --mypy_grpc_out="quiet:$$OUT" proto/garrison/v1/*.proto

.PHONY: help
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 16

# ---- set-up ---------------------------------------------------------------------------------------------------

.PHONY: install
install: $(INSTALLED)  ## .venv with everything

$(INSTALLED): pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { echo "No $(PYTHON) here: install Python 3.11 or newer, or say which: make $(MAKECMDGOALS) PYTHON=…" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$("$(PYTHON)" --version) is too old: Garrison needs 3.11 or newer. Say which: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@if ! "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null; then \
		version=$$("$(PYTHON)" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "Debian keeps venv in a package of its own: installing $$version"; \
			apt-get -q update; DEBIAN_FRONTEND=noninteractive apt-get -q install -y "$$version"; \
		else \
			echo "$(PYTHON) cannot make environments here. As root: apt-get install $$version" >&2; exit 1; \
		fi; \
	fi
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

.PHONY: test-packages
test-packages:  ## system packages some tests use (libmodbus, gcc); those tests say so when they are not there
	@missing=""; \
	command -v gcc >/dev/null || missing="$$missing gcc libc6-dev"; \
	[ -e /usr/include/modbus/modbus.h ] || missing="$$missing libmodbus-dev"; \
	[ -n "$$missing" ] || exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& { timeout 300 apt-get -q update && DEBIAN_FRONTEND=noninteractive timeout 300 apt-get -q install -y --no-install-recommends $$missing; } >/dev/null 2>&1; then \
		echo "installed for the tests:$$missing"; \
	else \
		echo "note: not installed and not installable from here:$$missing (the tests that want them are skipped)"; \
	fi

# ---- the farm -------------------------------------------------------------------------------------------------

.PHONY: run
run: install  ## a farm of this very machine: commander, rig sentry, live table; Ctrl-C stops it
	@$(BIN)/python -m tools.quickstart run

.PHONY: demo
demo: install  ## the same with simulated miners and a simulated relay board
	@$(BIN)/python -m tools.quickstart demo

# ---- what CI runs ---------------------------------------------------------------------------------------------

.PHONY: test
test: install test-packages lint types imports stubs-check pytest  ## everything CI runs

.PHONY: check
check: test  ## the same

.PHONY: lint
lint: install  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: install  ## mypy --strict, for linux and for win32
	$(BIN)/mypy --strict --platform linux $(TYPED)
	$(BIN)/mypy --strict --platform win32 $(PRODUCT)

.PHONY: imports
imports: install  ## who may import whom
	$(BIN)/lint-imports --no-cache

.PHONY: stubs
stubs: install  ## generates proto/garrison/v1/*_pb2* from the .proto files
	OUT=proto; $(PROTOC)

.PHONY: stubs-check
stubs-check: install  ## fails when the committed stubs are not what the .proto files give
	@OUT=$$(mktemp -d); trap 'rm -rf "$$OUT"' EXIT; $(PROTOC); \
	diff -r -x __pycache__ -x '*.proto' -x __init__.py proto/garrison/v1 "$$OUT/garrison/v1" \
		|| { echo 'The stubs differ from the .proto files: run `make stubs` and commit what it writes.' >&2; exit 1; }

.PHONY: docs-commands
docs-commands: install  ## writes docs/commands.md and docs/settings.md from the programs themselves
	$(BIN)/python -m tools.reference

.PHONY: docs-asic
docs-asic: install  ## writes docs/asic-support.md from the makes, their fixtures and what is known of them
	$(BIN)/python -m tools.asic_support

.PHONY: pytest
pytest: install  ## the tests alone, by default two at a time: `make pytest WORKERS=0` runs one after the other
	$(BIN)/pytest -m "not slow" -n $(WORKERS) --dist loadfile

# ---- longer proofs --------------------------------------------------------------------------------------------

.PHONY: soak
soak: install test-packages  ## the long proofs (kill -9 at random moments, load)
	$(BIN)/pytest -m slow --timeout=3600

.PHONY: fuzz
fuzz: install $(VENV)/.fuzz  ## coverage-guided fuzzing of what comes from outside, FUZZ_SECONDS each
	@for target in tests/fuzz/fuzz_*.py; do \
		name=$$(basename "$$target" .py); corpus=.fuzz/$$name; mkdir -p "$$corpus"; \
		echo "$$name: $(FUZZ_SECONDS) s"; \
		$(BIN)/python -m "tests.fuzz.$$name" -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=1024 -max_len=65536 \
			-artifact_prefix="$$corpus/found-" -print_final_stats=1 "$$corpus"; \
	done

$(VENV)/.fuzz: $(INSTALLED)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[fuzz]'
	@touch $@

# The history's has a target of its own: it wants two databases to compare with, and takes longer than all others together.
# So has that of the ASIC drivers: it wants other people's programs from PyPI.
BENCHMARKS = $(filter-out bench_history bench_asic,$(basename $(notdir $(sort $(wildcard bench/bench_*.py)))))

.PHONY: bench
bench: install  ## measures, writes bench/results.json and docs/benchmarks.md
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m "bench.$$name"; done
	$(BIN)/python -m bench.report

.PHONY: bench-history
bench-history: install  ## history against VictoriaMetrics and Prometheus (installed when we are root), forty minutes
	@missing=""; \
	for program in victoria-metrics prometheus; do command -v "$$program" >/dev/null || missing="$$missing $$program"; done; \
	[ -n "$$missing" ] || exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& { timeout 300 apt-get -q update && DEBIAN_FRONTEND=noninteractive timeout 300 apt-get -q install -y --no-install-recommends $$missing; } >/dev/null 2>&1; then \
		echo "installed for the benchmark:$$missing"; \
		[ ! -d /run/systemd/system ] || systemctl -q disable --now $$missing; \
	else \
		echo "note: not installed and not installable from here:$$missing (they are not compared with)"; \
	fi
	$(BIN)/python -m bench.bench_history
	$(BIN)/python -m bench.report

.PHONY: bench-asic
bench-asic: install  ## ASIC drivers against pyasic and pyasic-rs (installed from PyPI, each for itself), five minutes
	@for peer in pyasic pyasic-rs; do \
		[ ! -e .bench-peers/$$peer/.installed ] || continue; \
		if $(BIN)/python -m venv --clear .bench-peers/$$peer \
			&& timeout 300 .bench-peers/$$peer/bin/python -m pip install -q --disable-pip-version-check $$peer >/dev/null 2>&1; then \
			touch .bench-peers/$$peer/.installed; echo "installed for the benchmark: $$peer"; \
		else \
			rm -rf .bench-peers/$$peer; echo "note: $$peer could not be installed (it is not compared with)"; \
		fi; \
	done
	$(BIN)/python -m bench.bench_asic
	$(BIN)/python -m bench.report

.PHONY: clean
clean:  ## removes what the targets above made; a farm stays
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .fuzz .bench-peers
	find . -name __pycache__ -type d -not -path './farm/*' -prune -exec rm -rf {} +
