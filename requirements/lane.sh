#!/usr/bin/env bash
# Prints the lane for this machine and its interpreter: `b /usr/bin/python3.13`, or `b 3.13` where none is installed.
#
# Lane B (TFX 1.21, TensorFlow 2.21) has wheels for glibc from 2.39 on and Python 3.11 to 3.13; lane A (TFX 1.16,
# TensorFlow 2.16) for older systems, with Python 3.10. $LANE (a or b) and $PYTHON (a path) overrule the choice.
set -euo pipefail

# $PYTHON, then the version's own name on PATH, then pyenv's; a pyenv shim that points nowhere fails the check.
find_python() {
  local version candidate
  for version in "$@"; do
    for candidate in "${PYTHON:-}" "python$version" python3 \
        "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/"$version".*/bin/python; do
      if [ -n "$candidate" ] && "$candidate" -c "import sys, venv, ensurepip
sys.exit('%d.%d' % sys.version_info[:2] != '$version')" >/dev/null 2>&1; then
        "$candidate" -c 'import sys; print(sys.executable)'
        return
      fi
    done
  done
  return 1
}

at_least() { [ "$(printf '%s\n' "$1" "$2" | sort --version-sort | head -n 1)" = "$1" ]; }

glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d ' ' -f 2) || true
if [ -n "${LANE:-}" ]; then
  lane=$LANE
elif [ -n "$glibc" ] && at_least 2.39 "$glibc"; then
  # Debian 13's python3 and Ubuntu's may lack their venv package while a whole 3.10 is there.
  if ! find_python 3.13 3.12 3.11 >/dev/null && find_python 3.10 >/dev/null; then lane=a; else lane=b; fi
else
  lane=a
fi
case $lane in
  a) echo "a $(find_python 3.10 || echo 3.10)" ;;
  b) echo "b $(find_python 3.13 3.12 3.11 || echo 3.13)" ;;
  *) echo "make setup: LANE must be a or b, got $lane" >&2; exit 1 ;;
esac
