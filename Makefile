# Two commands on a fresh machine: `make run` and `make test`. Both set up what they need first.
.PHONY: setup run test test-fast check lock clean

BIN := .venv/bin
PRESET ?= digits

# The environment is rebuilt only when the lock or what installs it changes.
setup: .venv/lock.txt
.venv/lock.txt: requirements/lane_a.txt requirements/kfp.txt requirements/venv.sh setup.py
	@bash requirements/venv.sh

run: setup
	@$(BIN)/tfx-vim run --preset $(PRESET)

# Two workers, a file at a time: most tests trace graphs, which takes one core.
WORKERS ?= 2
test: setup
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# Without training, pipelines and servers.
test-fast: setup
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow"

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

lock: setup
	@$(BIN)/uv pip compile --quiet --python-version 3.10 --generate-hashes \
		--override requirements/overrides.txt --custom-compile-command 'make lock' \
		requirements/lane_a.in --output-file requirements/lane_a.txt
	@bash requirements/constraints.sh
	@$(BIN)/uv pip compile --quiet --python-version 3.10 --generate-hashes --custom-compile-command 'make lock' \
		requirements/kfp.in --output-file requirements/kfp.txt

clean:
	@rm -rf .venv build *.egg-info
