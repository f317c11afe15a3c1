# shellcheck shell=bash
# Sourced by quickstart.sh: models that are trained in one rendered place and evaluated in it and in another one.

logs=logs/quickstart_dg
# shellcheck source=go/two_places.sh
. go/two_places.sh
render Market1501 campus_summer 0
render DukeMTMC station_winter 1
make_assets
compare dg_baseline dcac_baseline dcac
