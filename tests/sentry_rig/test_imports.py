"""What the daemon loads: a rig has little memory to spare for its sentry."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = (
    "numpy",
    "pydantic",
    "fastapi",
    "httpx",
    "rich",
    "typer",
    "uvicorn",
    "sqlite_utils",
    "pynvml",
    "commander",
    "prometheus_client",
)


def test_the_post_loads_nothing_heavy() -> None:
    """Neither the commander's libraries, nor the command line's, nor NVML (that is the helper's)."""
    code = f"import sys, sentry_rig.post, sentry_rig.settings; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_nvml_helper_stays_small() -> None:
    """It is one more Python on each NVIDIA rig: only the binding and what that needs."""
    code = "import sys, sentry_rig.nvml_reader; print([name for name in ('asyncio', 'msgspec', 'psutil', 'grpc') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60)
    assert done.stdout.strip() == "[]"
