# `make help` lists the targets. PYTHON=python3.12 chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SITE := _build/html/index.html
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Sphinx with every warning an error, references included.
BUILD := $(BIN)/jupyter-book build . -q -W -n --keep-going

.NOTPARALLEL:
.PHONY: help install book test lint check-book check-notebooks check-tests \
	notebooks slow law colab bench constraints clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' \
	  | awk -F'|' '{printf "  make %-16s %s\n", $$1, $$2}'

install: $(VENV)/.installed  ## create .venv with everything to build and test
$(VENV)/.installed: requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) \
	  else "Python 3.11 or later is needed; use: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -r requirements.txt -c constraints.txt
	$(PIP) install -q --no-deps --no-build-isolation -e .
	@touch $@

book: install  ## build the book, print its path and a generated sample
	@$(BIN)/python tools/vendor.py
	$(BUILD)
	@echo "The book: file://$(CURDIR)/$(SITE)"
	@$(BIN)/python -m lib "Once upon a time" --seed 1

test: lint check-book check-notebooks check-tests  ## everything a change must pass

lint: install  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet .github

check-book: install  ## the book builds without a single warning
	@$(BIN)/python tools/vendor.py
	$(BUILD) --all

# One thread: two that wait for each other on a busy machine take ten times as long.
check-notebooks: install  ## every notebook gives the outputs stored in it
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbval -q -o addopts= -o filterwarnings= notebooks

check-tests: install  ## unit, property, law, parity, page and browser tests
	@$(BIN)/python tools/vendor.py tests
	$(BIN)/python -m pytest -q -n 2 --dist loadscope

notebooks: install  ## run all notebooks and store their outputs
	$(BIN)/python tools/notebooks.py

slow: law colab  ## the slow checks: law and colab

law: install  ## laws on fresh seeds, folded solutions where they stand, minutes
	NTB_SLOW=1 $(BIN)/python -m pytest -q -m slow

colab: install  ## each notebook alone, with Colab's versions
	$(PYTHON) tools/colab_leg.py

# What the figures are compared with, beside transformers, is installed for them alone.
bench: install  ## measure speed, memory and start-up anew, two hours on a quiet machine
	$(PIP) install -q -r benchmarks/requirements.txt
	for name in step ngram generation memory startup; do \
	  $(BIN)/python benchmarks/$$name.py || exit 1; done

constraints: install  ## record the versions now in .venv
	@{ head -1 constraints.txt; $(PIP) freeze --exclude-editable \
	  --exclude next-token-book | sed 's/+cpu$$//'; } > $(VENV)/freeze
	@mv $(VENV)/freeze constraints.txt

clean:  ## remove what was built (not .venv)
	rm -rf _build build .mypy_cache .pytest_cache .ruff_cache
