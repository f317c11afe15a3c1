# shellcheck shell=bash
# Sourced by quickstart.sh: both stages of SD-ReID on a rendered aerial-ground benchmark.

data=datasets/quickstart logs=logs/quickstart

step "rendering the benchmark"
python tools/render_benchmark.py --root "$data" --name CARGO --train-ids 300 --test-ids 100 --images-per-id 10 --seed 0
make_assets
step "training and evaluating stage 1"
train stage1
step "training and evaluating stage 2"
train stage2 stage1
step "writing the report"
python tools/make_report.py --stage1 "$logs/stage1" --stage2 "$logs/stage2" \
  --output "$logs/report.html" --results "$logs/results.json"
