"""Runs one fuzz target under atheris: `python -m tests.fuzz.fuzz_NAME [libFuzzer options] CORPUS`, by `make fuzz`.

A target is a function that makes the function to feed. It imports what it tests itself, so that atheris can instrument it first,
and so that the same function runs without atheris in `test_targets.py`.
"""

import sys
from collections.abc import Callable

Feed = Callable[[bytes], None]


def run(make: Callable[[], Feed], packages: tuple[str, ...] = ("garrison",)) -> None:
    """Feeds until told to stop. Anything that `make()`'s function lets out is a finding, kept as a file beside the corpus."""
    import atheris  # only here: it is in the extra `fuzz`, not in `dev`

    with atheris.instrument_imports(include=list(packages)):
        feed = make()
    atheris.Setup(sys.argv, feed)
    atheris.Fuzz()
