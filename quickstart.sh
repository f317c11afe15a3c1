#!/usr/bin/env bash
# SD-ReID from a fresh clone to ranked lists: renders a benchmark, trains both stages, evaluates, writes a report.
# Run it again to continue after an interruption; delete logs/quickstart to start from the beginning.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. go/environment.sh
make_environment requirements.txt

data=datasets/quickstart logs=logs/quickstart

train() { # STAGE [EARLIER_STAGE]
  local state=0
  python -m fastreid.engine.finished "$logs/$1" ${2:+--weights "$logs/$2/model_final.pth"} || state=$?
  case $state in
    0) echo "    finished earlier, see $logs/$1"; return ;;
    3) rm -rf "${logs:?}/$1" ;; # it was trained on another stage 1 and cannot be resumed
  esac
  python tools/train_net.py --config-file "configs/quickstart/$1.yml" --resume DATASETS.ROOT "$data"
}

SECONDS=0
step "rendering the benchmark"
python tools/render_benchmark.py --root "$data" --name CARGO --train-ids 300 --test-ids 100 --images-per-id 10 --seed 0
step "making the tiny Stable Diffusion assets"
python tools/make_assets.py --size tiny --output pretrained/random-tiny
step "training and evaluating stage 1"
train stage1
step "training and evaluating stage 2"
train stage2 stage1
step "writing the report"
python tools/make_report.py --stage1 "$logs/stage1" --stage2 "$logs/stage2" \
  --output "$logs/report.html" --results "$logs/results.json"
echo "==> done in $((SECONDS / 60)) min $((SECONDS % 60)) s after installation: open $logs/report.html"
