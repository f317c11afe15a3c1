#!/usr/bin/env bash
# Installs what the tests need and runs them; arguments go to pytest (./run_tests.sh -m slow, -k render …).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. go/environment.sh
make_environment requirements.txt requirements-dev.txt
step "running the tests"
python -m pytest "$@"
