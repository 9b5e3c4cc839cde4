"""Runs one fuzz target under atheris: `python -m tests.fuzz.fuzz_NAME [libFuzzer options] CORPUS`, by `make fuzz`.

A target is a function that makes the function to feed. It imports what it tests itself, so that atheris can instrument it first,
and so that the same function runs without atheris in `test_targets.py`.
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

Feed = Callable[[bytes], None]
Seeds = Callable[[], Iterable[tuple[str, bytes]]]


def run(make: Callable[[], Feed], packages: tuple[str, ...] = ("garrison",), seeds: Seeds = lambda: ()) -> None:
    """Feeds until told to stop. Anything that `make()`'s function lets out is a finding, kept as a file beside the corpus.

    `seeds` are written into the corpus first, so that it begins with what is known and stays what was found.
    """
    import atheris  # only here: it is in the extra `fuzz`, not in `dev`

    corpus = Path(sys.argv[-1])
    if corpus.is_dir():
        for name, data in seeds():
            (corpus / f"seed-{name}").write_bytes(data)
    with atheris.instrument_imports(include=list(packages)):
        feed = make()
    atheris.Setup(sys.argv, feed)
    atheris.Fuzz()
