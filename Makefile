# Two commands on a fresh machine: `make run` and `make test`. Both set up what they need first.
.PHONY: setup browser run test test-all test-fast test-lane-b check lock audit image clean

BIN := .venv/bin
PRESET ?= digits

# The environment is rebuilt only when the lock or what installs it changes.
setup: .venv/lock.txt
.venv/lock.txt: $(wildcard requirements/*.txt requirements/*.sh) setup.py
	@bash requirements/venv.sh

# A lane that is asked for and is not the one that .venv has.
ifneq ($(LANE),)
ifneq ($(shell cat .venv/lane 2>/dev/null),$(LANE))
.PHONY: .venv/lock.txt
endif
endif

# For the tests of pages, which are skipped without one.
browser:
	@command -v chromium >/dev/null || { apt-get -qq update && apt-get -qq install -y chromium >/dev/null; } || \
	  echo "make browser: no chromium: the tests of pages will be skipped" >&2

run: setup
	@$(BIN)/tfx-vim run --preset $(PRESET)

# Two workers, a file at a time: most tests trace graphs, which takes one core.
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
# In two runs: a worker's memory grows from module to module, once to 15 GB, and is given back when it ends.
FIRST := tests/benchmarks tests/components tests/kubeflow tests/tfx_pipeline
test: setup
	@$(PYTEST) $(FIRST)
	@$(PYTEST) $(addprefix --ignore=,$(FIRST)) tests

# Also what takes minutes more: the whole pipeline on further stores, with kills, and under kfp.local.
test-all: setup
	@$(PYTEST) -m "" $(FIRST)
	@$(PYTEST) -m "" $(addprefix --ignore=,$(FIRST)) tests

# Without training, pipelines and servers.
test-fast: setup
	@$(PYTEST) -m "not slow and not nightly"

# In lane B, whatever this machine's lane is.
test-lane-b:
	@bash requirements/trixie.sh test

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# New releases: make lock UPGRADE=--upgrade
lock: setup
	@bash requirements/lock.sh $(UPGRADE)

# Known vulnerabilities of what is locked; needs PyPI.
audit: setup
	@bash requirements/audit.sh

# The image of the components for Kubeflow: make image IMAGE=REPOSITORY:TAG ACCELERATOR=gpu
IMAGE ?= tfx-vim
ACCELERATOR ?= cpu
image:
	@bash requirements/image.sh $(IMAGE) $(ACCELERATOR) $(BUILD_FLAGS)

clean:
	@rm -rf .venv build *.egg-info
