# Every target works from a fresh clone. MANIFEST=… takes your own photos; RUN=… another run folder.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
S3POT := $(VENV)/bin/s3pot-batch
STAMP := $(VENV)/.installed

# Of tests: each of them imports all libraries, so that more than there are cores take longer.
PROCESSES := $(shell $(PYTHON) -c "import os; print(min(os.cpu_count(), 8))")

DEMO := demo/photos/manifest.parquet
MANIFEST ?= $(DEMO)
RUN ?= runs/$(if $(filter $(DEMO),$(MANIFEST)),photos,$(basename $(notdir $(MANIFEST))))
DEMO_INDEX := demo/index.parquet
# More options for the commands, such as OPTIONS="--profile paper --workers 4".
OPTIONS ?=

.PHONY: setup demo references train segment test lint docs bench
.DELETE_ON_ERROR:

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(PY) -m pip install --quiet --constraint constraints.txt --no-deps label-studio-sdk  # its needs: a second OpenCV
	touch $@

$(DEMO): examples/demo_photos.py | $(STAMP)
	$(PY) -m examples.demo_photos --out demo/photos

demo: $(DEMO)
	$(S3POT) index demo/photos --masks --out $(DEMO_INDEX)
	$(S3POT) references --manifest $(DEMO_INDEX) --run runs/demo $(OPTIONS)
	$(S3POT) train --manifest $(DEMO_INDEX) --run runs/demo $(OPTIONS)
	$(S3POT) segment --manifest $(DEMO_INDEX) --run runs/demo --png $(OPTIONS)
	$(S3POT) evaluate --manifest $(DEMO_INDEX) --run runs/demo
	$(S3POT) report --run runs/demo --sheet demo/sheet.png

references train segment: $(MANIFEST) | $(STAMP)
	$(S3POT) $@ --manifest $(MANIFEST) --run $(RUN) $(OPTIONS)

# A file's tests share what they set up and stay together; the slow files come early in the alphabet, so keep its order.
# What one process has compiled is kept for the dozens that come after it.
test: $(STAMP)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet

bench: $(STAMP)
	$(PY) -m benchmarks
