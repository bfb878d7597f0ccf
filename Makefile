# make run   sets up what is needed and runs the gateway on its built-in demo backend
# make test  sets up what is needed and runs every check and test
# make setup what both share

PYTHON ?= python3
BIN := .venv/bin
CONFIG ?= etc/llmproxy.yaml

.PHONY: setup setup-dev run test check clean

setup: .venv/.installed

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable .
	touch $@

setup-dev: .venv/.installed-dev

.venv/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch .venv/.installed $@

run: setup
	$(BIN)/twistd -n --pidfile= llmproxy --config $(CONFIG)

test: setup-dev
	tests/setup
	tests/check

clean:
	rm -rf .venv build dist *.egg-info
