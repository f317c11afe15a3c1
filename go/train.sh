#!/usr/bin/env bash
# Trains and evaluates recipes one after another: go/train.sh CONFIG.yml [CONFIG.yml …] [-- KEY VALUE …]
# PYTHON_BIN: the Python to use (default: that of .venv if there is one); NUM_GPUS: processes; FASTREID_DATASETS: the folder of the benchmarks.
# The keys are passed on to all recipes. An interrupted run is resumed.
set -euo pipefail
configs=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  configs+=("$1")
  shift
done
[ ${#configs[@]} -gt 0 ] || { echo "usage: $0 CONFIG.yml [CONFIG.yml …] [-- KEY VALUE …]" >&2; exit 2; }
[ $# -eq 0 ] || shift
absolute() { # the absolute path; a command name without a slash is not changed
  case "$1" in /* | "") echo "$1" ;; */*) echo "$PWD/$1" ;; *) echo "$1" ;; esac
}
PYTHON_BIN="$(absolute "${PYTHON_BIN:-}")"
if [ -n "${FASTREID_DATASETS:-}" ]; then
  FASTREID_DATASETS="$(cd "$FASTREID_DATASETS" && pwd)"
  export FASTREID_DATASETS
fi
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
python="${PYTHON_BIN:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}"
for config in "${configs[@]}"; do
  "$python" tools/train_net.py --config-file "$config" --resume --num-gpus "${NUM_GPUS:-1}" "$@"
done
