"""Runs of train_net in a process of their own: started with the keys of a test, stopped by a signal, and read."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.miniature import ROOT
from tests.warm_python import warm_python

# Sends a signal to its own process before an iteration, unless the run is resumed.
STOP = """
import os, sys
from fastreid.engine import DefaultTrainer
step = DefaultTrainer.run_step
def run_step(self):
    if self.iter == {iteration} and "--resume" not in sys.argv:
        os.kill(os.getpid(), {signal})
    step(self)
DefaultTrainer.run_step = run_step
"""


def train(folder: Path, fixed: Sequence[str], output: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run train_net in a folder.

    Args:
        folder: the working directory.
        fixed: arguments of every run of a test: options, then keys.
        output: OUTPUT_DIR.
        words: further options, which begin with two dashes and have their value behind "=", and further keys.
    """
    options = [part for word in words if word.startswith("--") for part in word.split("=")]
    keys = [word for word in words if not word.startswith("--")]
    # Python itself resumes, as its seed of hashes is another one than that of the run before.
    python = sys.executable if "--resume" in words else warm_python()
    command = [python, str(ROOT / "tools/train_net.py"), *options, *fixed, "OUTPUT_DIR", output, *keys]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def state(folder: Path, output: str) -> dict[str, Any]:
    """Return the last checkpoint of a run."""
    return torch.load(folder / output / "model_final.pth", weights_only=True)


def final(folder: Path, output: str) -> dict[str, torch.Tensor]:
    """Return the weights of a finished run."""
    return state(folder, output)["model"]
