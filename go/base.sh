#!/usr/bin/env bash
# SD-ReID on AG-ReID (v1), both stages; KEY VALUE arguments are passed on.
exec "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/two_stage.sh" configs/v1/base_stage1.yml configs/v1/base_stage2.yml "$@"
