#!/usr/bin/env bash
# Installs the packages of the tests and runs them; arguments are passed on to pytest (./run_tests.sh -m slow, -k render …).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. go/environment.sh
make_environment requirements.txt requirements-dev.txt
step "running the tests"
python -m pytest "$@"
