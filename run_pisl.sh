#!/usr/bin/env bash
# PISL, without person labels: ./run_pisl.sh DATASET [KEY VALUE …]. Data sets: market1501 msmt17 veri.
set -euo pipefail
case "${1:-}" in
  market1501 | msmt17 | veri) ;;
  *)
    echo "run_pisl.sh: '${1:-}' is none of the data sets; usage: ./run_pisl.sh DATASET [KEY VALUE …]; data sets: market1501 msmt17 veri" >&2
    exit 2
    ;;
esac
config=configs/PISL/$1.yml
shift
exec "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/go/train.sh" "$config" -- "$@"
