# One command each: `make serve` to chat, `make test` to test, `make check` for format, lint and types.
# PORT=, HOST= and TUTEE_HOME= are honoured. Everything is installed into .venv and web/node_modules, nothing elsewhere.

PORT ?= 8000
HOST ?= 127.0.0.1
PYTHON ?= python3
BIN := .venv/bin
ifdef TUTEE_HOME
export TUTEE_HOME
endif

.PHONY: serve install install-test page check test checklist conformance clients learn format browser clean simulate crash soak bench-env

serve: install page
	@$(BIN)/tutee serve --host $(HOST) --port $(PORT)

install: .venv/installed
install-test: .venv/installed-test

.venv/installed: pyproject.toml
	@echo "==> Python environment in .venv (torch is about 200 MB; the first time takes a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -q -e .
	@touch $@

.venv/installed-test: .venv/installed
	@echo "==> What the tests need"
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[test]'
	@touch $@

# Without Node the API still serves, and the root page says what to install.
page:
	@$(PYTHON) web/build_page.py

# Debian's Chromium, when it is missing and we may install it; otherwise the browser tests skip and say so.
browser:
	@command -v chromium >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
		{ echo "==> Chromium for the browser tests"; apt-get update -qq && apt-get install -y -qq chromium fonts-dejavu-core >/dev/null; }

check: install-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@if command -v npm >/dev/null; then cd web && { test -d node_modules || npm ci --no-audit --no-fund; } && npm run -s check; \
		else echo "npm is missing: the page's types were not checked"; fi

# Two processes: much of the time a test waits for a server, a worker or the browser.
test: install-test page browser
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The 34 things that RLHF trainers get wrong: row, test, passed or failed.
checklist: install-test
	$(BIN)/python tests/checklist.py

# OpenAI's API as the official SDK sees it: 91 cases, the slow ones too, against a server with the real model.
conformance: install-test
	$(BIN)/python -m tests.conformance

# Strangers' clients, unmodified, against a server of ours; uv gives each an environment of its own. CLIENTS= chooses.
clients: install-test .venv-clients/bin/uv
	$(BIN)/python -m tests.clients $(CLIENTS)

.venv-clients/bin/uv:
	@$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --disable-pip-version-check -q uv

# Does it learn? GRPO, PPO and the planted chat, five seeds each.
learn: install
	$(BIN)/python bench/learn.py

format: install-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The proof that the circle improves the model: about ten minutes a seed on 2 cores, control team and measurement included.
simulate: install
	$(BIN)/python examples/simulated_team.py --labels 150 --seed 0

# Kills server and worker at 30 random moments of a whole walk and counts what was lost.
crash: install-test
	CRASH_KILLS=30 $(BIN)/python -m pytest tests/test_crash.py

# An hour of twice the load that the server can take; MINUTES= makes it shorter.
soak: install
	$(BIN)/python bench/soak.py --minutes $(or $(MINUTES),60)

# The peers of the benchmarks live in an environment of their own: transformers, TRL, OpenVINO, llama.cpp (built here).
bench-env:
	@PYTHON=$(PYTHON) sh bench/peers.sh

clean:
	rm -rf .venv .venv-bench .venv-clients web/node_modules tutee/serve/page artifacts
