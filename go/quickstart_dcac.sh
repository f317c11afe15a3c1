# shellcheck shell=bash
# Sourced by quickstart.sh: models that are trained in one rendered place and evaluated in it and in another one.

logs=logs/quickstart_dg
# shellcheck source=go/two_places.sh
. go/two_places.sh
render_two_places
make_assets
compare dg_baseline dcac_baseline dcac
