"""Set-up shared by all tests: exact matmuls, fixed seeds, few examples, and their order."""

import gc
import os
import tempfile

import keras
import pytest
from calls import XLA_FLAGS, kept_programs
from hypothesis import Phase, settings

# On JAX every example compiles anew.
examples = 8 if keras.backend.backend() == "jax" else 12
settings.register_profile("few", deadline=None, derandomize=True, max_examples=examples, database=None)
# For tests/mutations.py: that a test fails is enough, no smaller example is sought.
settings.register_profile("first_failure", settings.get_profile("few"), phases=[Phase.generate])
settings.load_profile("few")

# TPUs and new GPUs round float32 matmuls by default; where exactness is tested, they must not.
if keras.backend.backend() == "jax":
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")
    # Nearly all of the time goes into compiling, for one call each: see `optimized`. Flags are read at the first op.
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {XLA_FLAGS}".strip()
    # Tests that train or load the same model compile the same programs: what one worker has compiled, all load.
    if "PYTEST_XDIST_WORKER" not in os.environ:
        programs = tempfile.TemporaryDirectory(prefix="krpe_tf_programs_")
        os.environ.update(kept_programs(programs.name))
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
elif keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(False)


# The modules that take longest, longest first, by their seconds on TensorFlow. Two workers that take a module at a time
# begin with these, so that neither is left with a long one at the end.
LONGEST = [
    "kill_and_resume",
    "distributed_runs",
    "distribution",
    "colab",
    "garden",
    "demo",
    "saved_model",
    "litert",
    "streaming",
    "main",
    "toeplitz",
    "segments",
    "benchmarks",
    "backends",
    "litert_model",
    "tpu_compile",
    "litert_text",
    "litert_any_length",
    "web",
    "web_generator",
    "files",
    "compression",
    "quantization",
    "long",
    "token_classification",
    "fft_export",
    "recipes",
    "attention",
    "packaging",
]


def pytest_collection_modifyitems(config, items):
    if hasattr(config, "workerinput"):  # one of several workers of pytest-xdist
        places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(item.path.stem, len(places)))
    else:
        items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


def pytest_collection_finish():
    # What is imported by now stays: half a million objects that Python would walk over again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@pytest.fixture(autouse=True)
def fixed_seed():
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """A run that was trained and exported by the command line, see tests/trained_run.py. Only read it."""
    from trained_run import train_and_export

    return train_and_export(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def words_tokenizer():
    """Knows the words of tests/prepared_texts.py."""
    from prepared_texts import WORDS

    from krpe_tf.text import RESERVED_TOKENS, WordPieceTokenizer

    return WordPieceTokenizer([*RESERVED_TOKENS, *WORDS])


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, words_tokenizer):
    """60 labelled documents as `prepare` writes them; not to be written to."""
    from prepared_texts import SIZES, make_documents, write_jsonl

    from krpe_tf.data import prepare

    folder = tmp_path_factory.mktemp("prepared")
    source = write_jsonl(folder / "a.jsonl", make_documents(60))
    return prepare(source, folder / "out", tokenizer=words_tokenizer, **SIZES)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A classifier and its exports, each made when a test first asks for it: see `export_models.Shared`."""
    from export_models import Shared

    return Shared(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def optimized():
    """Compiles as a user does. XLA on CPU has rewritten correct graphs into wrong ones, so some tests must."""
    if keras.backend.backend() != "jax":
        yield
        return
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
