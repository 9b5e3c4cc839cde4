"""The import contracts can fail: a rule that nothing breaks may be a rule that does not look."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("commander", "sentry_core", "sentry_rig", "sentry_asic", "rrc")

CRIMES = {
    "Who may import whom": {
        "sentry_core/post.py": "import commander.model",
        "sentry_rig/rules.py": "import sentry_asic.make",
        "rrc/board.py": "import sentry_core.post",
        "proto/garrison/clock.py": "import rrc.board",
    },
    "In the commander": {"commander/fleet/rules.py": "import commander.power", "commander/model.py": "import commander.db"},
    "Rules decide": {"commander/fleet/rules.py": "import sqlite3", "sentry_rig/rules.py": "import time"},
    "Protobuf messages": {"sentry_core/post.py": "from garrison.v1 import post_pb2"},
    "A rig carries nothing": {"sentry_rig/rules.py": "import numpy"},
}


def lint(tree: Path) -> str:
    """What lint-imports says of a copy of the tree."""
    program = Path(sys.executable).parent / "lint-imports"
    path = os.pathsep.join([str(tree), str(tree / "proto")])
    done = subprocess.run(
        [program, "--no-cache"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.stdout + done.stderr


def test_each_contract_can_fail(tmp_path: Path) -> None:
    """One crime or more against each contract, in a copy: every contract is broken, and every crime is named."""
    for folder in (*PACKAGES, "proto"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for crimes in CRIMES.values():
        for file, line in crimes.items():
            with (tmp_path / file).open("a") as source:
                source.write(f"\n{line}\n")
    said = lint(tmp_path)
    assert re.findall(r"^(.*) BROKEN$", said, re.MULTILINE), said
    for contract in CRIMES:
        assert re.search(rf"^{contract}.* BROKEN$", said, re.MULTILINE), said
    assert "0 kept" in said
    for crimes in CRIMES.values():
        for file, line in crimes.items():
            guilty = file.removeprefix("proto/").removesuffix(".py").replace("/", ".")
            wanted = line.split()[1]
            assert re.search(rf"{guilty}( \(.*\))? -> {wanted}", said), f"{guilty} -> {wanted} is not named:\n{said}"
