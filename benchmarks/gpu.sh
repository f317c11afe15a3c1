#!/usr/bin/env bash
# Checks and times the library on one GPU in at most eight minutes: the most important sections first.
#   benchmarks/gpu.sh [FOLDER]    FOLDER (default logs/gpu) gets the whole output as log.txt
# Lines "FIGURE what = number (goal: …)" are measurements. A line "BROKEN section: …" is a section that failed or ran
# out of time, after which the next one starts; the script then ends with status 1.
# Variables: PYTHON (default python), DEVICE (default cuda), SIZE: "true" or "tiny" (default true), LIMIT: seconds of
# all sections together (default 480). DEVICE=cpu SIZE=tiny tries the script where there is no GPU; limits are wider.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON="${PYTHON:-python}" DEVICE="${DEVICE:-cuda}" SIZE="${SIZE:-true}" LIMIT="${LIMIT:-480}"
out="${1:-logs/gpu}"
mkdir -p "$out"
exec > >(tee "$out/log.txt") 2>&1
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore HF_HUB_OFFLINE=1
slowness=1
[ "$SIZE" = true ] || slowness=10
broken=0
SECONDS=0

section() { # NAME LIMIT COMMAND…: runs a command for at most LIMIT seconds, and no longer than all sections may take
  local name="$1" limit=$(($2 * slowness)) start=$SECONDS left=$((LIMIT - SECONDS)) state=0
  shift 2
  echo "== $name (at $start s)"
  if [ "$left" -lt 2 ]; then
    echo "BROKEN $name: no time is left"
    broken=1
    return
  fi
  timeout -k 5 "$((limit < left ? limit : left))" "$@" || state=$?
  if [ "$state" -eq 124 ] || [ "$state" -eq 137 ]; then
    echo "BROKEN $name: it took more than $((SECONDS - start)) s"
  elif [ "$state" -ne 0 ]; then
    echo "BROKEN $name: exit status $state"
  fi
  [ "$state" -eq 0 ] || broken=1
  echo "== $name: $((SECONDS - start)) s"
}
bench() { # NAME LIMIT SCRIPT OPTION…
  section "$1" "$2" "$PYTHON" "benchmarks/$3" "${@:4}" --device "$DEVICE"
}

same_bits() { # two runs of stage 1, of which one is stopped and resumed, end with the same weights
  set -e
  local data="$out/data" run
  local keys=(DATASETS.ROOT "$data" MODEL.DEVICE "$DEVICE" DETERMINISTIC True TEST.EVAL_PERIOD 0 "${small_run[@]}")
  rm -rf "$out/whole" "$out/resumed"
  "$PYTHON" tools/render_benchmark.py --root "$data" --train-ids "$ids" --test-ids 8 --images-per-id 8 --seed 0 | tail -1
  train() { "$PYTHON" tools/train_net.py --config-file configs/quickstart/stage1.yml "$@" > "$out/$run.txt" 2>&1; }
  run=whole
  train "${keys[@]}" OUTPUT_DIR "$out/whole" || { tail -5 "$out/whole.txt"; return 1; }
  run=resumed
  train "${keys[@]}" OUTPUT_DIR "$out/resumed" &
  local running=$!
  for _ in $(seq 300); do # until the second epoch
    grep -q '"epoch": 1' "$out/resumed/metrics.json" 2> /dev/null && break
    sleep 0.2
  done
  kill -TERM "$running" 2> /dev/null || true
  wait "$running" || true
  run=resumed_again
  train --resume "${keys[@]}" OUTPUT_DIR "$out/resumed" || { tail -5 "$out/resumed_again.txt"; return 1; }
  "$PYTHON" - "$out" <<'END'
import sys
import torch

whole, resumed = (
    torch.load(f"{sys.argv[1]}/{run}/model_final.pth", map_location="cpu")["model"] for run in ("whole", "resumed")
)
same = sum(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
print(f"FIGURE a stopped and resumed run: equal tensors = {same} (goal: {len(whole)})")
sys.exit(same != len(whole))
END
}
export -f same_bits

if [ "$SIZE" = tiny ]; then
  assets=pretrained/random-tiny kind=tiny batch=2 rounds=1 block=2 ids=16 people=tiny dim=16 models=(stage1) small_run=(SOLVER.MAX_EPOCH 2)
  small_run+=(SOLVER.IMS_PER_BATCH 16 INPUT.SIZE_TRAIN "[64, 32]" INPUT.SIZE_TEST "[64, 32]" DATALOADER.NUM_WORKERS 0)
  load=("${small_run[@]:2}") data=() tests=(-m slow -k "random_states or fp16")
else
  assets=pretrained/random-sd15 kind=sd15 batch=64 rounds=3 block=20 ids=64 people=market dim=768 models=(vit r50) small_run=(SOLVER.MAX_EPOCH 12)
  load=() data=(msmt17) tests=(-m gpu)
fi

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2> /dev/null || echo "no nvidia-smi"
git rev-parse --short HEAD 2> /dev/null
"$PYTHON" -c "import torch; print('torch', torch.__version__, 'CUDA', torch.version.cuda)"

section "tests on a GPU" 150 "$PYTHON" -m pytest -q "${tests[@]}" -rfE -p no:cacheprovider \
  tests/evaluation/test_gpu.py tests/engine/test_on_a_gpu.py
export PYTHON DEVICE out ids
section "same bits" 60 bash -c "small_run=($(printf '%q ' "${small_run[@]}")); same_bits"
section "random weights" 90 "$PYTHON" tools/make_assets.py --size "$kind" --output "$assets"
bench "sampling" 60 sampling.py --assets "$assets" --dtype bf16 --batch "$batch" --rounds "$rounds"
if [ "$SIZE" = true ]; then
  bench "stage 2 at its true size" 90 train_loop.py --models sd15 --root "$out/data" --block "$block" --rounds 1
fi
bench "trainer against a bare loop" 90 train_loop.py --models "${models[@]}" --root "$out/data" --block "$block" \
  --rounds 2 "${load[@]}"
bench "ranking" 40 evaluation.py --jobs ranking --sizes "$people" "${data[@]}" --dims "$dim" --rounds "$rounds" --device-only
if [ "$SIZE" = true ]; then
  bench "compiled sampling" 120 sampling.py --assets "$assets" --dtype bf16 --batch "$batch" --rounds 1 --compile
  bench "DCAC" 60 dcac.py --assets "$assets" --batch 64 --rounds 2 --block 10
fi
bench "labelling" 40 labeling.py --sizes "$people" --device-only
section "random weights with a text encoder" 30 "$PYTHON" tools/make_assets.py --size tiny --text
bench "writing pictures" 40 generation.py --pictures "$batch" --steps "$rounds" --rounds "$rounds"
echo "== all: $SECONDS s, $(grep -c ^FIGURE "$out/log.txt") figures"
grep ^BROKEN "$out/log.txt"
exit "$broken"
