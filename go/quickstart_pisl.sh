# shellcheck shell=bash
# Sourced by quickstart.sh: a model is trained with labels in one rendered place, then without labels in another one.

logs=logs/quickstart_pisl
# shellcheck source=go/two_places.sh
. go/two_places.sh
render Market1501 campus_summer 0
render MSMT17 plain 1
compare pisl_baseline pisl
