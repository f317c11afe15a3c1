"""Processes that tests look after."""

import subprocess
from pathlib import Path


def is_running(pid):
    """Whether a process has not ended; one that has ended may wait for a parent that reads its status."""
    if not Path("/proc/self").exists():
        return subprocess.run(["kill", "-0", str(pid)], capture_output=True).returncode == 0
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
