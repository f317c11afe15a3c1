#!/usr/bin/env bash
# DCAC: ./run_dcac.sh SOURCE [TARGET …] [KEY VALUE …] trains on one set and tests on others (default: the other three).
# ./run_dcac.sh multi TARGET [KEY VALUE …] trains on the other three sets. Sets: market1501 dukemtmc msmt17 cuhk03.
set -euo pipefail
sets="market1501 dukemtmc msmt17 cuhk03"
benchmark() { # the name of a set in DATASETS
  case "$1" in market1501) echo Market1501 ;; dukemtmc) echo DukeMTMC ;; msmt17) echo MSMT17 ;; cuhk03) echo CUHK03_detected ;; esac
}
refuse() {
  echo "run_dcac.sh: $1; usage: ./run_dcac.sh SOURCE [TARGET …] [KEY VALUE …] or ./run_dcac.sh multi TARGET [KEY VALUE …]; sets: $sets" >&2
  exit 2
}
source_set=${1:-}
if [ "$source_set" = multi ]; then
  [ -n "$(benchmark "${2:-}")" ] || refuse "'${2:-}' is none of the sets"
  config=configs/DCAC/multi_$2.yml
  shift 2
  tests=()
else
  [ -n "$(benchmark "$source_set")" ] || refuse "'$source_set' is none of the sets"
  config=configs/DCAC/$source_set.yml
  shift
  targets=()
  while [ $# -gt 0 ] && [ -n "$(benchmark "$1")" ]; do
    targets+=("'$(benchmark "$1")'")
    shift
  done
  tests=()
  [ ${#targets[@]} -eq 0 ] || tests=(DATASETS.TESTS "[$(IFS=,; echo "${targets[*]}")]")
fi
exec "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/go/train.sh" "$config" -- "${tests[@]}" "$@"
