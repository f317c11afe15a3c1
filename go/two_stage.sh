#!/usr/bin/env bash
# Trains and evaluates both stages of one recipe: go/two_stage.sh STAGE1.yml STAGE2.yml [KEY VALUE …]
# The variables of go/train.sh are read.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 STAGE1.yml STAGE2.yml [KEY VALUE …]" >&2; exit 2; }
stage1=$1 stage2=$2
shift 2
exec "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/train.sh" "$stage1" "$stage2" -- "$@"
