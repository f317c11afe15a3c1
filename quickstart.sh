#!/usr/bin/env bash
# A method from a fresh clone to ranked lists: renders its data, trains, evaluates, writes a report.
#   ./quickstart.sh         SD-ReID on an aerial-ground benchmark
#   ./quickstart.sh dcac    domain generalisation: trained in one place, evaluated in two
#   ./quickstart.sh pisl    trained with labels in one place, then without labels in another one
#   ./quickstart.sh diffperson    people are learnt and written, and a backbone is pre-trained on them
# Run it again to continue after an interruption; delete the folder below logs/ to start from the beginning.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
mode="${1:-sd_reid}"
if [ $# -gt 1 ] || [ ! -f "go/quickstart_$mode.sh" ]; then
  modes=(go/quickstart_*.sh)
  modes=("${modes[@]#go/quickstart_}")
  echo "quickstart.sh: unknown mode '$*'; modes: ${modes[*]%.sh} (default: sd_reid)" >&2
  exit 2
fi
. go/environment.sh
SECONDS=0
make_environment requirements.txt
installation=$SECONDS

make_assets() {
  step "making the tiny Stable Diffusion assets"
  python tools/make_assets.py --size tiny --output pretrained/random-tiny
}

train() { # NAME [EARLIER_STAGE]: trains configs/quickstart/NAME.yml on $data into $logs/NAME, unless that is finished
  local state=1
  if [ -d "$logs/$1" ]; then
    state=0
    python -m fastreid.engine.finished "$logs/$1" ${2:+--weights "$logs/$2/model_final.pth"} || state=$?
  fi
  case $state in
    0) echo "    finished earlier, see $logs/$1"; return ;;
    3) rm -rf "${logs:?}/$1" ;; # it was trained on another stage 1 and cannot be resumed
  esac
  python tools/train_net.py --config-file "configs/quickstart/$1.yml" --resume DATASETS.ROOT "$data"
}

# shellcheck source=go/quickstart_sd_reid.sh
. "go/quickstart_$mode.sh"
minutes() { echo "$(($1 / 60)) min $(($1 % 60)) s"; }
echo "==> done in $(minutes "$SECONDS"), of which installation took $(minutes "$installation"): open $logs/report.html"
