"""What the daemon loads: a rig has little memory to spare for its sentry."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = [
    *("numpy", "pydantic", "fastapi", "httpx", "uvicorn", "sqlite_utils", "prometheus_client", "commander"),
    *("rich", "typer", "pynvml", "urllib.request", "tarfile"),
]


def loaded(module: str, wanted: Sequence[str]) -> list[str]:
    """Which of `wanted` are there after importing `module` in a fresh Python."""
    code = f"import sys, json, {module}; print(json.dumps([name for name in {list(wanted)!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60)
    found: list[str] = json.loads(done.stdout)
    return found


def test_the_post_loads_nothing_heavy() -> None:
    """Neither the commander's libraries, nor the command line's, nor NVML (the helper's), nor what only installing needs."""
    assert loaded("sentry_rig.post", HEAVY) == []
    assert loaded("sentry_rig.settings", HEAVY) == []


def test_the_command_line_loads_no_daemon() -> None:
    """--help and completion are quick; `run` loads what it needs."""
    assert loaded("sentry_rig.cli", ["grpc", "psutil", "numpy", "sentry_rig.post", "rich.console"]) == []


def test_the_nvml_helper_stays_small() -> None:
    """It is one more Python on each NVIDIA rig: only the binding and what that needs."""
    assert loaded("sentry_rig.nvml_reader", ["asyncio", "msgspec", "psutil", "grpc"]) == []
