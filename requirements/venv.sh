#!/usr/bin/env bash
# Builds .venv from the lock: the interpreter, then every package by hash, then this project.
set -euo pipefail
cd "$(dirname "$0")/.."
lock=requirements/lane_a.txt
venv=.venv

is_310() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' >/dev/null 2>&1; }

# Python 3.10 from $PYTHON, PATH or pyenv; a pyenv shim that points nowhere fails is_310.
find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.10 python3 python \
      "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.10.*/bin/python; do
    if [ -n "$candidate" ] && is_310 "$candidate"; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  return 1
}

if ! command -v c++ >/dev/null; then
  echo "make setup: no C++ compiler (c++): TFX needs pyfarmhash, which has no wheel;" \
       "install one (apt install g++) and run make again" >&2
  exit 1
fi

rm -rf "$venv"
if python=$(find_python) && "$python" -m venv "$venv" >/dev/null 2>&1; then
  echo "make setup: building $venv with $python"
elif command -v uv >/dev/null && uv venv --quiet --seed --python 3.10 "$venv"; then
  echo "make setup: building $venv with a Python 3.10 found by uv"
else
  echo "make setup: no Python 3.10 with venv: looked for \$PYTHON, python3.10 and python3 on PATH, pyenv's versions, and uv;" \
       "install one (pyenv install 3.10, apt install python3.10-venv, or pip install uv) and run make again" >&2
  exit 1
fi

# pip brings uv, by the lock's own hashes; uv brings the rest, ten times faster.
awk '/^uv==/ {keep = 1} keep {print} keep && !/\\$/ {exit}' "$lock" > "$venv/uv.txt"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$venv/uv.txt"
export VIRTUAL_ENV="$PWD/$venv"
"$venv/bin/uv" pip sync --quiet --compile-bytecode --require-hashes "$lock"
"$venv/bin/uv" pip install --quiet --no-deps --no-build-isolation --editable .

# The newest kfp, which tests hold compiled files against.
"$venv/bin/python" -m venv --without-pip "$venv/kfp"
VIRTUAL_ENV="$PWD/$venv/kfp" "$venv/bin/uv" pip sync --quiet --require-hashes requirements/kfp.txt
cp "$lock" "$venv/lock.txt"
