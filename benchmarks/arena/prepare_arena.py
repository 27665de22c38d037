"""Write tasks of the Long Range Arena as folders that `train` opens.

    python benchmarks/arena/prepare_arena.py listops --output build/arena
    python -m krpe_tf train build/arena/listops --config benchmarks/arena/published_listops.json --output run

Writes NAME, which holds the training and the validation part, and NAME_test, whose training part is the test part; what
is there with as many documents stays. Text and image are npm packages, which npm fetches into the folder "packages".
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from _arena_tasks import TASKS, load_task, prepare_task


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the folders that are asked for, and say what they hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="*", choices=[[], *TASKS], help=f"among {', '.join(TASKS)} (default: all)")
    parser.add_argument("--output", type=Path, default=Path("build/arena"), help="the folder (default: build/arena)")
    parser.add_argument("--training", type=int, help="training documents (default: as many as published)")
    parser.add_argument("--held-out", type=int, help="documents to validate by, and to test on (default: as published)")
    options = parser.parse_args(arguments)
    for name in options.task or TASKS:
        prepare_task(name, options.output, options.training, options.held_out)
        corpus, test = load_task(name, options.output)
        counts = corpus.documents("train"), corpus.documents("validation"), test.documents("train")
        tokens = corpus.tokens("train") / counts[0]
        print(f"{name}: {counts[0]:,} + {counts[1]:,} + {counts[2]:,} documents of {tokens:,.0f} bytes on average")


if __name__ == "__main__":
    main()
