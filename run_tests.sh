#!/usr/bin/env bash
# Installs the packages of the tests and runs them; arguments are passed on to pytest (./run_tests.sh -m slow, -k render …).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. go/environment.sh
make_environment requirements.txt requirements-dev.txt
step "running the tests"
# Two processes; the tests of one file stay together, as they share what they prepare. Files that take
# minutes are begun first (tests/conftest.py). A process that dies is not replaced, so that the run ends at once and
# names the test. -n 0 runs all in one process.
python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 "$@"
