"""The `commander` program: its own file, so that an installation without the extra says so instead of failing on an import."""

from __future__ import annotations

import sys

NEEDED = frozenset({"fastapi", "httpx", "numpy", "orjson", "prometheus_client", "pydantic", "starlette", "uvicorn"})


def main() -> None:
    try:
        from commander.cli.app import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in NEEDED:
            raise
        sys.stderr.write(f"error: the commander needs the package {error.name}, which is not installed\n")
        sys.stderr.write("hint: pip install 'garrison[commander]'\n")
        sys.exit(1)
    run()
