"""The doctor where something is broken; that the command prints what it says is in `tests/cli`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("module", ["numpy", "msgspec", "tokenizers", "alref_edge.pipeline"])
def test_what_cannot_be_imported_is_a_fault_and_no_end(module: str, nano_bundle: Path) -> None:
    program = (
        "import json, pathlib, sys\n"
        "sys.modules[sys.argv[1]] = None  # as Python marks what is not to be had\n"
        "from alref_edge.doctor import examine\n"
        "print(json.dumps(examine(pathlib.Path(sys.argv[2])).to_json()))\n"
    )
    command = [sys.executable, "-c", program, module, str(nano_bundle)]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    faults = {each["name"]: each["detail"] for each in report["findings"] if each["state"] == "fault"}
    assert faults.keys() >= {"bundle", *({module} - {"alref_edge.pipeline"})}
    assert module in faults["bundle"]
    assert not report["can_run"]
