# shellcheck shell=bash
# Sourced by quickstart_*.sh: runs that are compared in two rendered places.

data=datasets/quickstart_dg

render() { # NAME DOMAIN SEED
  step "rendering the domain $2"
  python tools/render_benchmark.py --root "$data" --name "$1" --domain "$2" --seed "$3" \
    --train-ids 150 --test-ids 60 --images-per-id 10
}

compare() { # FIRST [RUN …]: trains the runs into $logs and writes their report; the others start from the first one
  local run first="$1"
  for run in "$@"; do
    step "training and evaluating $run"
    if [ "$run" = "$first" ]; then train "$run"; else train "$run" "$first"; fi
  done
  step "writing the report"
  python tools/make_report.py "${@/#/$logs/}"
}
