# make run   sets up what is needed and runs the gateway on its built-in demo backend
# make test  sets up what is needed and runs every check and test
# make setup what both share

PYTHON ?= python3
BIN := .venv/bin
CONFIG ?= etc/llmproxy.yaml

.PHONY: setup setup-dev run test check clean

setup: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

setup-dev: .venv/.installed-dev

.venv/.installed-dev: .venv/.installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

run: setup
	$(BIN)/twistd -n --pidfile= llmproxy --config $(CONFIG)

test: setup-dev
	tests/setup
	tests/check

clean:
	rm -rf .venv build dist *.egg-info
