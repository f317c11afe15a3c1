#!/usr/bin/env bash
# SD-ReID on AG-ReID.v2, both stages; KEY VALUE arguments are passed on.
exec "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/go/two_stage.sh" configs/v2/base_stage1.yml configs/v2/base_stage2.yml "$@"
