"""Build the compiled modules from this folder, with the command that fast-reid documents.

`cd fastreid/evaluation/rank_cylib; python setup.py build_ext --inplace` runs the setup.py of the repository.
"""

import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def main() -> None:
    """Run the repository's setup.py with the arguments of this command."""
    script = ROOT / "setup.py"
    if not script.is_file():
        sys.exit(f"there is no {script}: the compiled modules are built in a clone of the repository")
    os.chdir(ROOT)
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
