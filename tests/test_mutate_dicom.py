import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_damaged_files_of_all_codecs_have_a_row_each(tmp_path):
    script, table = ROOT / "benchmarks" / "mutate_dicom.py", tmp_path / "table.md"
    command = [sys.executable, script, "--count", "300", "--seed", "7", "--out", table]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "Doe" not in done.stdout + done.stderr
    assert "300 damaged ones (seed 7)" in table.read_text("utf-8")
    assert "| ok | " in table.read_text("utf-8")
