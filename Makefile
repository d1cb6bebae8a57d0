# Every command a person needs. `make` alone lists them. Works with GNU make 3.81, as on a Mac.

PY ?= python3
VENV := .venv
BIN := $(VENV)/bin
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
PROJECTS := pyproject.toml $(addsuffix /pyproject.toml,$(PLUGINS))

.PHONY: help dev run test check lint types imports oldest format docs commands site bench bench-quick clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

dev: $(VENV)/.installed ## make .venv with everything in it

# The check comes first: without it an old Python fails minutes later with a message about a package.
$(VENV)/.installed: $(PROJECTS)
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "mlxhub needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PY=python3.12"; exit 1; }
	@echo "==> making $(VENV) with $$($(PY) --version)"
	@$(PY) -m venv $(VENV) || { echo "no venv module: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	@echo "==> installing (about 350 MB with mlx-lm; a minute or two)"
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install -e '.[mlx]' $(foreach plugin,$(PLUGINS),-e ./$(plugin)) --group dev --group docs
	@touch $@

run: $(VENV)/.installed ## see it work: two tiny real models, a crash, the recovery
	@$(BIN)/python -m mlxhub_core demo $(ARGS)

test: $(VENV)/.installed ## all tests; ARGS="-k name" for some
	$(BIN)/python -m pytest $(ARGS)

check: lint types imports test oldest ## all that must be green before a commit

lint: $(VENV)/.installed ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed ## types
	$(BIN)/python -m mypy

imports: $(VENV)/.installed ## who may import whom
	$(BIN)/lint-imports

oldest: $(VENV)/oldest/.installed ## hooks, options and sinks with the oldest versions of all that we need
	PYTHONPATH=$(VENV)/oldest $(BIN)/python -c 'import pluggy; assert pluggy.__version__ == "1.6.0"'
	PYTHONPATH=$(VENV)/oldest $(BIN)/python -m pytest --quiet -m "not install" $(addprefix tests/,test_hooks.py \
	    test_hookspecs.py test_fanout.py test_runner.py test_options.py) \
	    $(wildcard plugins/*/tests/test_*_sink.py) $(wildcard plugins/*/tests/test_*conformance.py)

$(VENV)/oldest/.installed: $(VENV)/.installed
	@rm -rf $(VENV)/oldest
	@$(BIN)/python -m pip install --quiet --no-warn-conflicts --target $(VENV)/oldest $$($(BIN)/python tests/oldest.py $(PROJECTS))
	@touch $@

format: $(VENV)/.installed ## put the style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: commands site ## the documentation: pages that are made from the code, and the site

commands: $(VENV)/.installed ## write docs/commands.md anew, from the commands
	@$(BIN)/python docs/make_commands.py

site: $(VENV)/.installed ## build the site of the documentation, in which nothing may be amiss
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.bench ## all figures beside floors and peers, about 13 minutes; ARGS=crash for some
	$(BIN)/python -m bench $(ARGS)

bench-quick: $(VENV)/.bench ## the same with few samples, in a minute
	$(BIN)/python -m bench --quick $(ARGS)

$(VENV)/.bench: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --group bench
	@touch $@

clean: ## remove what these commands made
	rm -rf $(VENV) mlxhub-demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
