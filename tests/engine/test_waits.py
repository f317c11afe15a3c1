"""No model waits for a GPU in a training step but once, and sampling does not: the cases are in waits.py."""

import subprocess
from pathlib import Path

from tests.miniature import ROOT
from tests.warm_python import warm_python


def test_the_waits_of_every_model():
    """In a process of its own: fake CUDA tensors start threads of autograd, after which a process must not fork.

    A single case: ``pytest tests/engine/waits.py -k MGN``.
    """
    command = [warm_python(), "-m", "pytest", "-q", "-n", "0", str(Path(__file__).with_name("waits.py"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
