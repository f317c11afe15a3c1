# shellcheck shell=bash
# Sourced by quickstart.sh and run_tests.sh: makes .venv, installs the packages, and puts .venv first on PATH.
# Packages are installed again only if a requirements file, setup.py or a source file of the extensions changes.
# PYTHON_BIN chooses the Python (3.10 or newer) that .venv is made with.

STEP="starting"
finish() {
  local status=$?
  case $status in
    0) ;;
    130 | 143) echo "$(basename "$0"): interrupted while $STEP; call it again, it continues from there" >&2 ;;
    *) echo "$(basename "$0"): failed while $STEP (exit status $status)" >&2 ;;
  esac
}
trap finish EXIT
# Ctrl-C ends the script, not only the current step.
trap 'exit 130' INT
trap 'exit 143' TERM

step() {
  STEP="$1"
  echo "==> $STEP"
}

make_environment() { # REQUIREMENTS_FILE…
  local python="${PYTHON_BIN:-python3}" stamp=.venv/.fastreid-installed wanted file
  step "checking Python"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    { echo "$python is missing or older than 3.10; name another with PYTHON_BIN=…" >&2; return 1; }
  step "making .venv"
  .venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
  wanted="$(cat "$@" setup.py pyproject.toml fastreid/{retrieval/rank,data/resize}_cylib/*.{pyx,h} | cksum) $*"
  if ! { [ -f "$stamp" ] && grep -qxF "$wanted" "$stamp"; }; then
    step "installing $* (the first time takes minutes and about 6 GB)"
    local options=()
    for file in "$@"; do options+=(-r "$file"); done
    .venv/bin/python -m pip install --quiet --upgrade pip
    .venv/bin/python -m pip install --quiet "${options[@]}"
    step "installing the package (compiles rank evaluation and resizing)"
    .venv/bin/python -m pip install --quiet --editable .
    echo "$wanted" >>"$stamp"
  fi
  export PATH="$PWD/.venv/bin:$PATH"
}
