"Style: ruff over notebooks, package, tests and tools (rules in ruff.toml)."
import subprocess
import sys

from conftest import ROOT


def test_ruff():
    done = subprocess.run([sys.executable, '-m', 'ruff', 'check', '--no-cache', '--output-format', 'concise', '.'],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
