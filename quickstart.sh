#!/usr/bin/env bash
# SD-ReID from a fresh clone to ranked lists: renders a benchmark, trains both stages, evaluates, writes a report.
# Run it again to go on after an interruption; delete logs/quickstart to start anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. go/environment.sh
make_environment requirements.txt

data=datasets/quickstart logs=logs/quickstart

finished() { # RUN [EARLIER_RUN]: evaluated after its last checkpoint, and trained after the run it builds on
  [ "$logs/$1/results.json" -nt "$logs/$1/model_final.pth" ] &&
    { [ -z "${2:-}" ] || [ "$logs/$1/model_final.pth" -nt "$logs/$2/model_final.pth" ]; }
}

train() { # STAGE [EARLIER_STAGE]
  if finished "$@"; then
    echo "    done before, see $logs/$1"
  else
    # A run that builds on an older stage 1 cannot be gone on with.
    [ -z "${2:-}" ] || [ "$logs/$1/last_checkpoint" -nt "$logs/$2/model_final.pth" ] || rm -rf "${logs:?}/$1"
    python tools/train_net.py --config-file "configs/quickstart/$1.yml" --resume DATASETS.ROOT "$data"
  fi
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
