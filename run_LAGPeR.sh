#!/usr/bin/env bash
# SD-ReID on LAGPeR, both stages; KEY VALUE arguments are passed on.
exec "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/go/two_stage.sh" configs/LAGPeR/base_stage1.yml configs/LAGPeR/base_stage2.yml "$@"
