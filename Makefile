# The front door. Every target sets up what it needs; nothing has to be installed by hand on Debian 12 or 13.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
SHELL := /bin/bash

PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest -p no:cacheprovider
JUNIT := build/junit

.PHONY: help
help: ## show this
	@echo 'Gantry: provision fleets of Linux hosts to fetch, verify and run App Containers.'
	@echo
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24
	@echo
	@echo '  GANTRY_CACHE=DIR keeps what is costly to make (default .cache); GANTRY_MIRROR=URL names a Debian mirror.'

# ---- for people

.PHONY: demo
demo: ## fresh hosts, one playbook, a signed pod on each (KEEP=1 leaves the hosts up)
	@scripts/setup demo
	@$(PYTHON) -m demo $(if $(KEEP),--keep)

.PHONY: demo-down
demo-down: ## remove the hosts that KEEP=1 has left up
	@scripts/setup demo
	@$(PYTHON) -m demo --down

.PHONY: setup
setup: ## install what developing needs: Debian packages, .venv
	@scripts/setup all

# ---- checks

.PHONY: test
test: ## lint, unit, conformance, hostile and integration tests, then the demo's hosts with testinfra
	@scripts/setup test
	@$(MAKE) --keep-going lint test-here test-integration test-hosts

.PHONY: test-vm
test-vm: ## the Molecule scenario on two virtual machines: check mode, converge, idempotence, verify
	@scripts/setup vm
	@scripts/molecule vms

.PHONY: lint
lint: ## formatting, style, types, shell scripts, the built collection
	@scripts/setup test
	@scripts/lint

.PHONY: sanity
sanity: collection ## ansible-test sanity on the built collection
	@scripts/setup test
	@$(PYTHON) scripts/check_collection.py sanity

.PHONY: test-here
test-here: ## tests that need nothing but this checkout
	@scripts/setup test
	@$(PYTEST) -q tests/unit tests/conformance tests/hostile tests/cases --junit-xml=$(JUNIT)/here.xml

.PHONY: test-integration
test-integration: ## tests that start pods, services and machines here (root)
	@scripts/setup test
	@$(PYTEST) -q tests/integration --junit-xml=$(JUNIT)/integration.xml

.PHONY: test-hosts
test-hosts: ## the demo, and testinfra checks of its hosts
	@scripts/setup test
	@$(PYTHON) -m demo --place build/test-demo --infra $(JUNIT)/infra.xml

FUZZ_SECONDS := 300

.PHONY: fuzz
fuzz: ## fuzz the readers of strangers' bytes, FUZZ_SECONDS (default 300) each; findings go to build/fuzz
	@scripts/setup test
	@set -e; for each in tests/hostile/fuzz_*.py; do \
	  $(PYTHON) -m "tests.hostile.$$(basename "$$each" .py)" --seconds=$(FUZZ_SECONDS); \
	done

.PHONY: bench
bench: ## measure against podman and runc in the same run
	@scripts/setup bench
	@$(PYTHON) -m tests.benchmarks

# ---- what is shipped

.PHONY: collection
collection: ## build the Ansible collection's artifact into build/
	@scripts/setup demo
	@$(PYTHON) scripts/build_collection.py

.PHONY: docs
docs: collection ## render the collection's reference into build/docs
	@scripts/setup test
	@scripts/docs

.PHONY: clean
clean: ## remove what was made here, hosts included; .venv and .cache stay
	@if [ -x $(PYTHON) ]; then $(PYTHON) -m demo --down; scripts/molecule --down; fi
	@rm -rf build .ruff_cache .mypy_cache .pytest_cache .hypothesis .ansible
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
