# Everything here needs Python 3.11 or 3.12 and make, nothing else. The first target that needs
# packages makes .venv and installs the set of record (constraints.txt) into it; later ones reuse
# it until pyproject.toml or constraints.txt changes.

PROFILE ?= mini
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
RUN := $(BIN)/python
INSTALLED := $(VENV)/.installed
CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3 python)
PYTEST := MORE_PROGRESS=0 $(RUN) -m pytest -q
PARALLEL := -n auto --maxprocesses 8 --dist loadfile -p no:nbval -p no:anyio

.DEFAULT_GOAL := help
.PHONY: help reproduce check test reliability bench lab explore clean

help:
	@echo "make reproduce                data, training, every notebook, and a report; PROFILE=mini"
	@echo "make reproduce PROFILE=voc    the same with another profile"
	@echo "make check                    style, layout and types of the code; seconds"
	@echo "make test                     check, tests, every notebook against its stored outputs"
	@echo "make test FAST=1              check and the quick unit tests; a minute or two"
	@echo "make reliability              kills, full disks, 10,000 images; half an hour on two cores"
	@echo "make bench                    the speed ratios of RESULTS.md, to runs/speed.json; 2 minutes"
	@echo "make lab                      JupyterLab on notebooks/"
	@echo "make explore                  notebook 09's screen alone, to look rather than read"
	@echo "make clean                    remove .venv and build leftovers; keep runs/ and data"
	@echo "make help                     this list"
	@echo
	@echo "Each sets up .venv first if need be. PYTHON=/path/to/python3.11 chooses a new .venv's interpreter;"
	@echo "MORE_DATA=/path chooses where data and trained weights are kept."

reproduce: $(INSTALLED)
	@echo "== Reproducing profile $(PROFILE): python -m more_lib reproduce --profile $(PROFILE)"
	@$(RUN) -m more_lib reproduce --profile "$(PROFILE)"

check: $(INSTALLED)
	@echo "== Check: ruff (style, layout), then mypy (types)"
	@$(RUN) -m ruff check -q
	@$(RUN) -m ruff format -q --check
	@$(RUN) -m mypy --no-error-summary

ifneq ($(filter-out 0,$(FAST)),)
test: check
	@echo "== Quick tests: pytest on tests/, without those marked slow"
	@$(PYTEST) $(PARALLEL) -m "not slow and not gpu and not reliability" tests
else
test: check
	@ls notebooks/*.ipynb >/dev/null 2>&1 || { \
	  echo "error: notebooks/ holds no notebook, so there is nothing to check" >&2; exit 2; }
	@echo "== Tests: pytest on tests/"
	@$(PYTEST) $(PARALLEL) tests
	@echo "== Notebooks: each is run again and compared with its stored outputs (nbval)"
	@$(PYTEST) --nbval-lax --nbval-current-env \
	  --nbval-cell-timeout=900 --nbval-kernel-startup-timeout=180 notebooks
endif

reliability: $(INSTALLED)
	@echo "== Reliability: what kills, full disks and many images do; figures at the end"
	@$(PYTEST) -m reliability tests/reliability

bench: $(INSTALLED)
	@echo "== Bench: steps in forwards of the plain ViT, losses and CRF against loops"
	@mkdir -p runs
	@$(RUN) -m more_lib bench speed --json runs/speed.json

lab: $(INSTALLED)
	@echo "== JupyterLab on notebooks/ (Ctrl-C twice stops it)"
	@$(RUN) -m jupyterlab notebooks

# Voilà shall load what widgets need of all that is installed: not all can do without JupyterLab.
explore: $(INSTALLED)
	@echo "== The explorer, served by Voilà (Ctrl-C stops it); networks that are not there are trained first"
	@$(RUN) -m voila --VoilaConfiguration.extension_allowlist=anywidget \
	  --VoilaConfiguration.extension_allowlist=@jupyter-widgets/jupyterlab-manager \
	  --VoilaConfiguration.extension_allowlist=@voila-dashboards/widgets-manager8 \
	  notebooks/09_explorer.ipynb

clean:
	@echo "== Removing .venv, build leftovers and caches of tests"
	@rm -rf $(VENV) build dist more_lib.egg-info .pytest_cache .ruff_cache .mypy_cache
	@find more_lib tests data_scripts -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Kept: runs/, and the data folder (MORE_DATA, else more_lib in your user cache)."

# Candidates are run, not just looked up: version managers leave commands that only print an error.
$(INSTALLED): pyproject.toml constraints.txt
	@if $(RUN) -m pip --version >/dev/null 2>&1; then \
	  echo "== Set-up: bringing $(VENV) up to date"; exit 0; \
	fi; \
	chosen=; bare=; \
	for candidate in $(CANDIDATES); do \
	  "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
	    >/dev/null 2>&1 || continue; \
	  if "$$candidate" -c 'import venv, ensurepip' >/dev/null 2>&1; \
	    then chosen=$$candidate; break; else bare=$$candidate; fi; \
	done; \
	if [ -n "$$chosen" ]; then \
	  echo "== Set-up: making $(VENV) with $$("$$chosen" --version)"; \
	  "$$chosen" -m venv --clear $(VENV); \
	elif [ -n "$$bare" ]; then \
	  echo "error: $$bare cannot make virtual environments; install its venv module (Debian and" \
	    "Ubuntu: apt install python3-venv) or give another: make PYTHON=/path/to/python3.11" >&2; \
	  exit 2; \
	else \
	  echo "error: no Python 3.11 or 3.12 among: $(CANDIDATES); install one or say where it is:" \
	    "make PYTHON=/path/to/python3.11" >&2; exit 2; \
	fi
	@echo "== Set-up: installing the packages of constraints.txt (first time: minutes, some GB)"
	@$(RUN) -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[dev,classroom]"
	@$(RUN) -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[crf]" 2>/dev/null \
	  || echo "== Without pydensecrf2, which needs a C++ compiler: CRF of whole photographs needs a GPU"
	@touch $@
