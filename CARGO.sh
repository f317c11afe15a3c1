#!/usr/bin/env bash
# SD-ReID on CARGO, both stages; KEY VALUE arguments are passed on.
exec "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/go/two_stage.sh" configs/CARGO/base_stage1.yml configs/CARGO/base_stage2_step5.yml "$@"
