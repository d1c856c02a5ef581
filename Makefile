# Needs nothing but python3 with venv and pip. Each target does its own set-up, again and again.
SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MARKS ?= not deep
# Of the demo: so many times faster than RunAPI.
SPEED ?= 3
RUN := $(BIN)/python -m
# More than CI has processors: some of what the tests do is wait. Each costs five seconds of a processor.
WORKERS ?= 7
# A file's tests share the servers that they start.
SUITE := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --ignore tests/real_hosts --ignore tests/inspector --ignore tests/team
# Byte-code goes into the environment, also where the machine says that none is written: to compile everything in each
# process took a third of a run.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(abspath $(VENV))/pycache

.PHONY: help demo check types test suite collected test-deep test-team test-pythons mutants early kill kill-downloads kill-team kill-api kill-apply swarm bench bench-check bench-team soak fuzz fuzz-guided audit licences test-browser test-hosts conformance inspector packages example pictures dist fmt clean
.DEFAULT_GOAL := help

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

# What it runs on and nothing more, so that `make demo` waits for no tool of ours. uv installs in a fifth of pip's time, and pip
# fetches it beside the environment; where uv fails (an index that is set up for pip alone), pip installs.
UV := $(VENV)/.uv/bin/uv
PIP := $(RUN) pip install --quiet --disable-pip-version-check
BY_UV := UV_HTTP_TIMEOUT=20 $(UV) pip install --quiet --python $(BIN)/python

$(VENV)/.runtime: pyproject.toml
	@echo "Setting up $(VENV), once: what flux2-mcp runs on comes from the package index (about 10 s) ..."
	@$(PYTHON) -m venv $(VENV)
	@{ { test -x $(UV) || $(PIP) --target $(VENV)/.uv --upgrade uv; } && $(BY_UV) -e .; } || $(PIP) -e .
	@touch $@

$(VENV)/.done: $(VENV)/.runtime
	@echo "Installing the development tools into $(VENV), once ..."
	@$(BY_UV) -e . --group dev || { $(PIP) --upgrade 'pip>=25.1' && $(PIP) -e . --group dev; }
	@touch $@

demo: $(VENV)/.runtime ## one image from the seed's prompt, in the sandbox: no key, and once set up no network
	@echo "Drawing one image in the sandbox on this machine: no key, no network, no money ..."
	@env -u RUNAPI_API_KEY -u RUNAPI_KEY FLUX2_MODE=sandbox FLUX2_SANDBOX_SPEED=$(SPEED) $(BIN)/flux2-mcp generate \
	  "Generate a photorealistic studio portrait of an astronaut holding a cat, dramatic rim lighting, 8K detail."

check: $(VENV)/.done ## lint, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

types: $(VENV)/.done ## pyright, strict, over the public API of the Python client: tests/typing/api.py (needs npm; mypy does the same in check)
	$(BIN)/pytest tests/typing

test: $(VENV)/.done ## everything that has to hold: check, then the tests; says at its end what it took
	@$(RUN) tests.support.timed $(MAKE) --no-print-directory check suite

suite: $(VENV)/.collected
	$(RUN) tests.support.in_memory $(RUN) pytest $(SUITE) -m "not deep"

collected: $(VENV)/.collected ## byte-code of the tests, made once, where each worker of a new environment would make its own

$(VENV)/.collected: $(VENV)/.done
	@$(RUN) pytest --collect-only --quiet $(SUITE) --numprocesses 0 >/dev/null
	@touch $@

test-deep: check ## the same with the long tables, branch coverage, and then `make fuzz` (about half an hour)
	$(BIN)/coverage erase
	FLUX2_TESTS_FORK=0 $(BIN)/coverage run -m pytest $(SUITE)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(MAKE) --no-print-directory fuzz

test-team: $(VENV)/.done ## servers for a team at length: killed, the database stopped, a race at a cap; sign-in with a real provider; docs/team.md as it stands there (needs postgresql, npm, chromium, nginx)
	$(BIN)/pytest tests/team

test-pythons: $(VENV)/.done ## the tests without browser on each other Python that is promised and is on this machine
	$(RUN) tests.support.pythons $(ONE) $(SUITE) -m "$(MARKS)" --ignore tests/browser $(TESTS)

kill-apply: $(VENV)/.done ## kill apply 50 times at random moments: 200 pictures for 200 entries, and the lock right
	$(RUN) bench.manifest --kills 50

mutants: $(VENV)/.done ## break the code in about a hundred ways, and see the tests notice each (minutes)
	$(RUN) tests.mutants.run

early: $(VENV)/.done ## take the first answers' snapshot anew, after a change of tools, instructions, version or SDK
	FLUX2_SNAPSHOTS=write $(BIN)/pytest tests/process/test_early.py -k snapshot_is_what

kill: $(VENV)/.done ## kill the server 200 times at every step of a task's life: nothing lost, nothing paid twice
	$(RUN) bench.kill --kills 200

kill-downloads: $(VENV)/.done ## kill it 100 times while images are on their way: no file lost, broken or there twice
	$(RUN) bench.kill --downloads --kills 100

kill-team: $(VENV)/.done ## kill a team's servers 200 times, stop their database 10 times and their store 5 times: every promise kept (needs postgresql)
	$(RUN) bench.team_kill --kills 200 --stops 10 --store-stops 5

kill-api: $(VENV)/.done ## kill a Python program 50 times in `run` and start it again: one task each, every image there
	$(RUN) bench.api_kill --kills 50

swarm: $(VENV)/.done ## eight servers on one home: one limiter, one budget, nobody polls another's tasks
	$(RUN) bench.swarm

bench: $(VENV)/.done ## measure all, each beside what it is compared with, and write docs/performance.md (about ten minutes)
	$(RUN) bench.all

bench-check: $(VENV)/.done ## measure all again: what is more than 10 % worse than bench/recorded.json fails
	$(RUN) bench.all --check

bench-team: $(VENV)/.done ## measure a team's server with a million tasks kept, and the tasks a second of 1 and 3 servers (needs postgresql; a quarter of an hour)
	$(RUN) bench.team_load; $(RUN) bench.all --written

soak: $(VENV)/.done ## half an hour of mixed traffic with faults over four servers; writes docs/reliability.md
	$(RUN) bench.soak --minutes 30

fuzz: $(VENV)/.done ## what comes from outside, with many more examples than the tests have, and others each time (minutes)
	FLUX2_TESTS_FUZZ=1 $(BIN)/pytest tests -m hypothesis --numprocesses auto

fuzz-guided: $(VENV)/.done ## the same for the readers of what comes from outside, led by coverage (fetches atheris; x86-64 Linux)
	$(RUN) pip install --quiet --disable-pip-version-check atheris==3.0.0
	$(RUN) bench.guided

# Strict: without it, what could not be looked up counts as safe.
audit: $(VENV)/.done ## known holes in what is installed; fails too where their list can't be reached
	$(RUN) pip freeze --exclude-editable | $(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r /dev/stdin

licences: $(VENV)/.done ## write docs/licences.md from the metadata of what is installed
	$(RUN) packages.licences

test-browser: $(VENV)/.done ## the gallery and the login in headless Chromium alone; keeps what it looked like in dist/screenshots
	FLUX2_TESTS_SCREENSHOTS=dist/screenshots $(BIN)/pytest tests/browser --numprocesses auto

test-hosts: $(VENV)/.done ## install into the real agent clients, offline (needs npm; fetches them once, about 2 GB)
	$(BIN)/pytest tests/real_hosts --numprocesses 2

conformance: $(VENV)/.done ## the protocol's own suite, both versions, over HTTP: what fails is named in tests/conformance (needs npm)
	$(RUN) tests.conformance.run

inspector: $(VENV)/.done ## the Inspector's command line uses all that the server lists, in both eras (needs npm)
	$(BIN)/pytest tests/inspector --numprocesses auto

packages: $(VENV)/.done ## write from the code: manifest.json, install/ (plugins, skill, marketplaces), the lists of README and docs/
	$(RUN) packages

example: $(VENV)/.done ## run the project of docs/images-as-code.md in the sandbox, and write what the commands say into the page
	$(RUN) packages.project

pictures: $(VENV)/.done ## the README's two pictures anew (needs chromium)
	$(RUN) packages.pictures

dist: $(VENV)/.done ## wheel and sdist in dist/, then the demo from the wheel in an empty environment and an empty home
	rm -f dist/*.whl dist/*.tar.gz
	$(RUN) build --quiet
	$(RUN) packages.dist dist

fmt: $(VENV)/.done ## format and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what the other targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage .coverage.* dist
