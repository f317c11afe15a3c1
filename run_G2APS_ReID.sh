#!/usr/bin/env bash
# SD-ReID on G2APS-ReID, both stages; KEY VALUE arguments are passed on.
exec "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/go/two_stage.sh" configs/G2APS_ReID/base_stage1.yml configs/G2APS_ReID/base_stage2.yml "$@"
