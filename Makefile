# make demo   builds the package for CPUs, shows a model that ships on new street scenes and trains its policy on
# make test   builds the package for CPUs and runs the fast tests, about 10 minutes on two cores
# make test-full  the rest of the tests, also the native ones and the compilation for CUDA
# make test-ptx   all tests of the CUDA kernels, emulated in three orders of threads: hours
# make check  formatters, linter, types
# make docs   the documentation, as a site; any warning is an error
# make ablations  all sweeps on the built-in street scenes, their tables and the report

# The CUDA handlers are built for what runs on GPUs, where there is a compiler for them; it takes minutes.
export SEGBLOCKS_CUDA ?= $(if $(filter ablations,$(MAKECMDGOALS)),$(if $(shell command -v nvcc),ON,OFF),OFF)
# Pages of 2 MiB: a tenth of a training step's time on CPUs (docs/training.md).
demo ablations: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/demo
ABLATIONS ?= runs/ablations
BIN = $(VENV)/bin
NATIVE = $(wildcard xla_ffi/*/*.h xla_ffi/*/*/*.h xla_ffi/*/*.cc xla_ffi/*/*.cu xla_ffi/*/*.cuh)
PTX = $(wildcard tests/ptx/*.h tests/ptx/*.cc tests/ptx/*.cu)

INSTALLED = $(VENV)/.installed-$(SEGBLOCKS_CUDA)
# What the demo needs is less, and quicker to install; a complete environment does as well.
DEMO_INSTALLED = $(or $(wildcard $(VENV)/.installed-O*),$(VENV)/.installed-demo)
INSTALL = $(PYTHON) -m venv $(VENV) && $(BIN)/pip install --quiet --upgrade pip \
	&& $(BIN)/pip install --quiet --editable
PYTEST = SEGBLOCKS_REQUIRE_EXT=1 $(BIN)/pytest -n 2

.PHONY: demo test test-full test-ptx check docs ablations format clean

$(VENV)/.installed-%: pyproject.toml CMakeLists.txt $(NATIVE)
	export SEGBLOCKS_CUDA=$* && $(INSTALL) '.[dev]'
	rm -f $(VENV)/.installed-*
	touch $@

$(VENV)/.installed-demo: pyproject.toml CMakeLists.txt $(NATIVE)
	$(INSTALL) '.[report,train]'
	touch $@

demo: $(DEMO_INSTALLED)
	$(BIN)/python -m segblocks_jax.experiments.demo --output=$(RUN)

# The headers of CUTLASS, without what its Python package needs, for the tests that compile CUDA kernels.
CUTLASS = if command -v nvcc; then $(BIN)/pip install --quiet --no-deps 'nvidia-cutlass>=4.2'; fi

test: $(INSTALLED)
	$(CUTLASS)
	$(PYTEST) -m "not slow" --durations=10

test-full: $(INSTALLED)
	$(CUTLASS)
	$(PYTEST) -m slow --durations=30

test-ptx: $(INSTALLED)
	$(CUTLASS)
	SEGBLOCKS_REQUIRE_PTX=1 SEGBLOCKS_PTX_SEEDS=3 $(BIN)/pytest tests/test_ptx.py

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(NATIVE) $(PTX)

docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict --site-dir build/site

# Small programs, run briefly: less optimization saves more time in the compiler than it costs.
ablations: $(INSTALLED)
	XLA_FLAGS="$(XLA_FLAGS) --xla_backend_optimization_level=0" \
		$(BIN)/python -m segblocks_jax.experiments.sweep --runs=$(ABLATIONS) --data_dir=$(ABLATIONS)/data

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(NATIVE) $(PTX)

clean:
	rm -rf $(VENV) build runs
