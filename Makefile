# Every target sets up what it needs; a second call of any is quick. `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
OLDEST := .venv-oldest/bin
OTHER := .venv-$(notdir $(PYTHON))/bin
STAMP := .venv/.installed
PYTEST := $(BIN)/python -m pytest --quiet
WORKERS := -n 3 --dist loadscope  # of pytest, on two cores: many tests wait
export PATH := $(CURDIR)/$(BIN):$(PATH)
# A random.py in this folder is not the one of the standard library.
export PYTHONSAFEPATH := 1

.DEFAULT_GOAL := help
.PHONY: help setup data book html lab test test-slurm test-faults bench rehearse refresh portability clean browser slurm chaos \
	oldest other-python test-types test-library test-pages test-portability test-unit test-notebook test-rehearsal

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

setup: $(STAMP) ## make .venv with the versions of requirements.lock

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

data: $(STAMP) ## fetch and verify the data of the smoke and laptop scales
	reprobook data fetch $(CHAPTER)

book: data ## execute every chapter at smoke scale, then build the pages in _build/html
	$(BIN)/python -m reprobook.authoring.site --execute

html: $(STAMP) ## build the pages from the stored outputs
	$(BIN)/python -m reprobook.authoring.site

lab: data ## open JupyterLab on a start page with the chapters
	$(BIN)/python -m reprobook.authoring.start
	$(BIN)/jupyter lab --notebook-dir=notebooks --LabApp.default_url=/lab/tree/start.md \
		--LabApp.app_settings_dir="$(CURDIR)/notebooks/.jupyterlab" \
		--ContentsManager.hide_globs=params --ContentsManager.hide_globs=expected --ContentsManager.hide_globs=__pycache__

# What waits or works on one core runs beside other work (-j 2).
ifdef CHAPTER
OWN_TESTS := $(wildcard lib/tests/papers/test_$(CHAPTER).py lib/tests/papers/test_$(CHAPTER)_*.py)
test: data
	$(BIN)/ruff check lib/reprobook/papers/$(CHAPTER) $(OWN_TESTS) notebooks/$(CHAPTER).ipynb
	reprobook check $(CHAPTER)
	$(MAKE) --no-print-directory --keep-going -j 2 test-rehearsal test-unit test-notebook test-types
else
test: data browser slurm ## run all checks; with CHAPTER=<slug> what one chapter needs
	$(BIN)/ruff check lib notebooks
	$(MAKE) --no-print-directory --keep-going -j 2 test-types test-library
	OMP_NUM_THREADS=1 $(PYTEST) --nbval-lax notebooks $(WORKERS)
	basename -a -s .ipynb notebooks/*.ipynb | OMP_NUM_THREADS=1 xargs -n 1 -P 2 reprobook rehearse
	$(MAKE) --no-print-directory --keep-going test-portability test-pages  # in turn: the first takes all threads
endif

test-types:
	$(BIN)/mypy

test-library:
	OMP_NUM_THREADS=1 $(PYTEST) lib/tests $(WORKERS) --ignore=lib/tests/book

# One thread: a run of two beside another run of two takes ten times as long (its threads wait for each other).
test-pages:
	OMP_NUM_THREADS=1 $(PYTEST) lib/tests/book

test-portability:
	reprobook portability --all --one

test-unit:
	OMP_NUM_THREADS=1 $(PYTEST) $(OWN_TESTS) lib/tests/test_imports.py

test-notebook:
	OMP_NUM_THREADS=1 $(PYTEST) --nbval-lax notebooks/$(CHAPTER).ipynb

test-rehearsal:
	OMP_NUM_THREADS=1 reprobook rehearse $(CHAPTER)

test-slurm: $(STAMP) slurm ## only the tests on a real Slurm: a controller and two nodes, started on this machine
	OMP_NUM_THREADS=1 $(PYTEST) lib/tests/batch/test_slurm.py

test-faults: $(STAMP) ## kill a batch at 20 random moments and finish it each time
	OMP_NUM_THREADS=1 REPROBOOK_KILLS=20 $(PYTEST) lib/tests/batch/test_local.py -k power_cuts

bench: data ## measure speed: the headline ratio of each chapter, with proof that both ways agree
	reprobook bench

rehearse: $(STAMP) ## run the paper-scale code of every chapter on miniatures, offline
	reprobook rehearse --all

refresh: data ## execute at smoke scale and store outputs, expected metrics, measured times and the README's table
	reprobook refresh --all
	$(BIN)/python -m reprobook.authoring.site --records
	reprobook pages

chaos: $(STAMP) ## kill trainings and runs at random, 200 times: each must end as an undisturbed one (KILLS=20: fewer)
	$(BIN)/python lib/tests/chaos.py $(if $(KILLS),--kills $(KILLS))

oldest: ## run the tests with the oldest versions that pyproject.toml admits, in .venv-oldest
	test -x $(OLDEST)/python || $(PYTHON) -m venv .venv-oldest
	$(OLDEST)/python lib/tests/oldest.py > .venv-oldest/constraints.txt
	$(OLDEST)/python -m pip install --quiet --disable-pip-version-check -c .venv-oldest/constraints.txt -e ".[$$($(OLDEST)/python lib/tests/oldest.py --extras)]"
	PATH="$(CURDIR)/$(OLDEST):$$PATH" OMP_NUM_THREADS=1 $(OLDEST)/python -m pytest --quiet lib/tests $(WORKERS) \
		--ignore=lib/tests/book --ignore=lib/tests/test_packaging.py

other-python: ## run the tests and the chapters under another Python (PYTHON=python3.13), in .venv-python3.13
	test -x $(OTHER)/python || $(PYTHON) -m venv $(dir $(OTHER))
	$(OTHER)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(OTHER)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	PATH="$(CURDIR)/$(OTHER):$$PATH" OMP_NUM_THREADS=1 $(OTHER)/python -m pytest --quiet lib/tests $(WORKERS) --ignore=lib/tests/book
	PATH="$(CURDIR)/$(OTHER):$$PATH" OMP_NUM_THREADS=1 $(OTHER)/python -m pytest --quiet --nbval-lax notebooks $(WORKERS)

portability: data ## smoke metrics of all chapters with 1 and 2 threads and three instruction sets
	reprobook portability --all

clean: ## remove what can be made again; runs and .venv stay
	rm -rf _build book/_generated .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find lib notebooks -name __pycache__ -prune -exec rm -rf {} +

# The tests of the pages need Chromium and its driver. As root on Debian or Ubuntu they are installed; elsewhere say so.
browser:
	@if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
			chromium chromium-driver >/dev/null || echo "Chromium could not be installed: the browser tests will be skipped"; \
	else echo "No chromium and chromedriver here: the browser tests will be skipped"; fi

# The tests of batches on Slurm start a cluster of their own, which takes root. As root on Debian or Ubuntu it is installed.
slurm:
	@if command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
			slurm-wlm munge >/dev/null || echo "Slurm could not be installed: its tests will be skipped"; \
	else echo "No Slurm here and no root: its tests will be skipped"; fi
