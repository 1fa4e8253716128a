#!/usr/bin/env bash
# Builds .venv from the lock of this machine's lane: the interpreter, then every package by hash, then this project.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv
chosen=$(bash requirements/lane.sh)
read -r lane python <<<"$chosen"
lock=requirements/lane_$lane.txt
releases=$(grep -oE '^(tfx|tensorflow)==[0-9.]+' "$lock" | sort | sed 's/tensorflow==/TensorFlow /; s/tfx==/TFX /' | paste -sd ',')

if ! command -v c++ >/dev/null; then
  echo "make setup: no C++ compiler (c++): TFX needs pyfarmhash, which has no wheel;" \
       "install one (apt install g++) and run make again" >&2
  exit 1
fi

# uv by the lock's own hashes, in an environment that has pip.
install_uv() {
  awk '/^uv==/ {keep = 1} keep {print} keep && !/\\$/ {exit}' "$lock" > "$1/uv.txt"
  "$1/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$1/uv.txt"
}

# Any python3 that can make an environment is enough to fetch uv, and uv fetches the interpreter.
fetch_python() {
  local bootstrap
  if command -v uv >/dev/null; then
    uv venv --quiet --seed --python "$python" "$venv"
    return
  fi
  bootstrap=$(mktemp -d)
  python3 -m venv "$bootstrap" >/dev/null 2>&1 && install_uv "$bootstrap" &&
    "$bootstrap/bin/uv" venv --quiet --seed --python "$python" "$venv"
  local failed=$?
  rm -rf "$bootstrap"
  return "$failed"
}

rm -rf "$venv"
case $python in
  /*)
    echo "make setup: lane ${lane^^} (${releases/,/, }), building $venv with $python"
    "$python" -m venv "$venv"
    ;;
  *)
    echo "make setup: lane ${lane^^} (${releases/,/, }), building $venv with Python $python, which uv fetches"
    if ! fetch_python; then
      rm -rf "$venv"
      echo "make setup: no Python $python with venv: looked for \$PYTHON, python$python and python3 on PATH, pyenv's" \
           "versions, and what uv can fetch; install one (apt install python$python-venv, pyenv install $python," \
           "or pip install uv) and run make again" >&2
      exit 1
    fi
    ;;
esac

install_uv "$venv"
export VIRTUAL_ENV="$PWD/$venv"
"$venv/bin/uv" pip sync --quiet --compile-bytecode --require-hashes "$lock"
"$venv/bin/uv" pip install --quiet --no-deps --no-build-isolation --editable .

# The newest kfp, which tests hold compiled files against.
"$venv/bin/python" -m venv --without-pip "$venv/kfp"
VIRTUAL_ENV="$PWD/$venv/kfp" "$venv/bin/uv" pip sync --quiet --require-hashes requirements/kfp.txt
echo "$lane" > "$venv/lane"
cp "$lock" "$venv/lock.txt"
