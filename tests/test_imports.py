"""What every command pays for before it does anything."""

import subprocess
import sys

HEAVY = ("matplotlib", "peft", "diffusers.models.unets", "scipy.stats", "sklearn", "jinja2.environment")


def test_the_trainer_imports_nothing_that_few_runs_need():
    script = "import sys, fastreid.engine, fastreid.evaluation; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(done.stdout.split())
