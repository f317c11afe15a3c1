# shellcheck shell=bash
# Sourced by quickstart.sh: models that are trained in one rendered place and evaluated in it and in another one.

data=datasets/quickstart_dg logs=logs/quickstart_dg
# The others start from the first one.
runs=(dg_baseline dcac_baseline dcac)

render() { # NAME DOMAIN SEED
  step "rendering the domain $2"
  python tools/render_benchmark.py --root "$data" --name "$1" --domain "$2" --seed "$3" \
    --train-ids 150 --test-ids 60 --images-per-id 10
}

render Market1501 campus_summer 0
render DukeMTMC station_winter 1
make_assets
for run in "${runs[@]}"; do
  step "training and evaluating $run"
  if [ "$run" = dg_baseline ]; then train "$run"; else train "$run" dg_baseline; fi
done
step "writing the report"
python tools/make_report.py "${runs[@]/#/$logs/}"
