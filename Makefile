# Everything a newcomer needs, each target with all its set-up. `make help` lists them.

PYTHON ?= python3
BACKEND ?= auto
UV_VERSION := $(shell sed -n 's/^uv==//p' constraints.txt)
PACKAGES := core profiles model_server operator simulator client front cli tools
BIN := .venv/bin

# The tests of a file run one after the other in one process, as they share its servers; files side by side. Tests wait
# for servers to start a third of their time, so three processes keep two cores busy.
TEST_PROCESSES ?= 3
IN_PARALLEL := --ignore=tests/e2e --numprocesses=$(TEST_PROCESSES) --dist=loadfile --no-loadscope-reorder
PYTEST_OPTIONS ?=

# A module whose byte code is stored loads several times faster, and every server and lane loads torch's thousands.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test quick check lint types imports unit e2e e2e-nodes e2e-long images test-kind coverage bench reproduce docs docs-serve format protos dashboards sync release-check release-notes release setup browser down clean

help: ## List the targets.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup ## The main job on this machine: live page, table against static cores, report (BACKEND=local: no Kubernetes).
	$(BIN)/sponge demo --backend $(BACKEND)

test: setup browser ## Everything: lint, types, import contracts, unit, property, contract, browser and end-to-end tests.
	$(BIN)/python tests/shared/everything.py

quick: check ## Lint, types, import contracts, and all tests that need no cluster, no torch and not long (no mark e2e, torch or slow).
	$(BIN)/pytest -m "not e2e and not torch and not slow" $(IN_PARALLEL) $(PYTEST_OPTIONS)

check: lint types imports ## Lint, types and import contracts only.

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy $(PACKAGES) bench tests

imports: setup
	$(BIN)/lint-imports

unit: setup ## Tests that need no cluster.
	$(BIN)/pytest -m "not e2e" $(IN_PARALLEL) $(PYTEST_OPTIONS)

e2e: setup ## Tests on a real local Kubernetes.
	$(BIN)/pytest tests/e2e --ignore=tests/e2e/nodes -m "not long" $(PYTEST_OPTIONS)

e2e-nodes: setup ## Tests on a real local Kubernetes of two nodes, beside any other local cluster; needs root.
	tests/shared/own_machine.sh $(BIN)/pytest tests/e2e/nodes -m "not long" $(PYTEST_OPTIONS)

e2e-long: setup ## The end-to-end scenarios of more than a minute each.
	$(BIN)/pytest tests/e2e --ignore=tests/e2e/nodes -m long $(PYTEST_OPTIONS)
	tests/shared/own_machine.sh $(BIN)/pytest tests/e2e/nodes -m long $(PYTEST_OPTIONS)

images: setup ## Build the images of operator and server, try them, print their sizes (TORCH_INDEX=URL: other wheels of torch).
	$(BIN)/python -m sponge_images build $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

test-kind: setup ## The images in a real kind cluster: load, helm install, serve, resize, uninstall.
	$(BIN)/python -m sponge_images test-kind

coverage: setup ## Tests that need no cluster, with line and branch coverage; out/coverage/index.html.
	$(BIN)/pytest -m "not e2e" $(IN_PARALLEL) --cov --cov-report=term:skip-covered --cov-report=html --cov-report=xml

bench: setup ## Every figure that the README claims.
	$(BIN)/python -m bench

reproduce: setup ## Every figure and table of docs/research/experiments.md, and out/reproduce/report.html; goes on where it was interrupted.
	$(BIN)/python -m bench.experiments

docs: setup ## The documentation site, in site/; a broken link fails.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: setup ## The documentation site on loopback, rebuilt when a page changes.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

format: setup ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A pool of its own, so that a process may also hold a client's modules of the same protocol.
protos: setup ## Write the Python modules of the gRPC protocols anew.
	cd model_server && ../$(BIN)/python -m grpc_tools.protoc --proto_path=. --python_out=. --pyi_out=. \
		sponge_server/protos/inference.proto sponge_server/protos/model_config.proto
	cd front && ../$(BIN)/python -m grpc_tools.protoc --proto_path=. --python_out=. --pyi_out=. sponge_front/protos/ext_proc.proto
	sed -i 's/_descriptor_pool\.Default()/_descriptor_pool.DescriptorPool()/' \
		model_server/sponge_server/protos/*_pb2.py front/sponge_front/protos/*_pb2.py

dashboards: setup ## Write the Grafana dashboard anew from its code, and its copy in the chart.
	$(BIN)/python -m sponge_dashboards
	$(BIN)/python -m sponge_release.copies

# These need nothing but Python.
sync: ## Bring copies up to date: CRD, dashboard, alerts and version in the Helm chart.
	PYTHONPATH=tools $(PYTHON) -m sponge_release.copies

release-check: ## Check that version, changelog, chart and copies agree, and with TAG=v1.2.0 also that tag.
	PYTHONPATH=tools $(PYTHON) -m sponge_release check $(if $(TAG),--tag $(TAG))

release-notes: ## Print the changelog of the current version.
	@PYTHONPATH=tools $(PYTHON) -m sponge_release notes

release: ## Prepare a release: make release VERSION=1.2.0.
	@test -n "$(VERSION)" || { echo "Say which version: make release VERSION=1.2.0" >&2; exit 2; }
	PYTHONPATH=tools $(PYTHON) -m sponge_release prepare $(VERSION)

setup: .venv/installed .venv/compiled ## The virtual environment, with pinned versions; decisions compiled where it can.

.venv/installed: pyproject.toml tools/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; point PYTHON at one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "Setting up the virtual environment in .venv: about a minute, more where packages have to be downloaded"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet uv==$(UV_VERSION)
	@echo "Installing the pinned packages"
	@$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev,docs]' --editable ./tools
	@touch $@

# Says why if it cannot; the core then runs interpreted and decides the same.
.venv/compiled: .venv/installed $(shell find core/sponge_core simulator/sponge_simulator -name '*.py')
	@echo "Compiling the decisions with mypyc: about a minute"
	@$(BIN)/python -m sponge_system.compile_modules || true
	@touch $@

# The browser tests drive the demo's page in a real Chromium.
browser:
	@command -v chromium chromium-browser google-chrome >/dev/null || \
		{ test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || \
		{ echo "Chromium is needed for the browser tests: install the package chromium" >&2; exit 2; }

down: ## Stop the local cluster, if one runs.
	@test ! -x $(BIN)/sponge || $(BIN)/sponge cluster down

clean: down ## Remove the virtual environment and all output.
	rm -rf .venv out site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
