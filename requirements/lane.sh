#!/usr/bin/env bash
# Prints the lane for this machine and its interpreter: `b /usr/bin/python3.13`, or `b 3.13` where none is installed.
#
# Lane B (TFX 1.21, TensorFlow 2.21) has wheels for glibc from 2.39 on and Python 3.11 to 3.13; lane A (TFX 1.16,
# TensorFlow 2.16) for older systems, with Python 3.10. $LANE (a or b) and $PYTHON (a path) overrule the choice.
set -euo pipefail

fits() {
  "$1" -c "import sys, venv, ensurepip
sys.exit('%d.%d' % sys.version_info[:2] != '$2')" >/dev/null 2>&1
}

# $PYTHON alone if it is set; else the version's own name on PATH, python3 and pyenv's. A pyenv shim that points
# nowhere does not fit.
find_python() {
  local version candidate candidates
  for version in "$@"; do
    candidates=("python$version" python3 "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/"$version".*/bin/python)
    if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
    for candidate in "${candidates[@]}"; do
      if fits "$candidate" "$version"; then
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
elif [ -n "${PYTHON:-}" ]; then
  if fits "$PYTHON" 3.10; then lane=a; else lane=b; fi
elif [ -n "$glibc" ] && at_least 2.39 "$glibc"; then
  # Debian 13's python3 and Ubuntu's may lack their venv package while a whole 3.10 is there.
  if ! find_python 3.13 3.12 3.11 >/dev/null && find_python 3.10 >/dev/null; then lane=a; else lane=b; fi
else
  lane=a
fi
case $lane in
  a) versions=(3.10) ;;
  b) versions=(3.13 3.12 3.11) ;;
  *) echo "make setup: LANE must be a or b, got $lane" >&2; exit 1 ;;
esac
if python=$(find_python "${versions[@]}"); then
  echo "$lane $python"
elif [ -n "${PYTHON:-}" ]; then
  echo "make setup: PYTHON must be one of ${versions[*]} with venv for lane ${lane^^}, got $PYTHON" >&2
  exit 1
else
  echo "$lane ${versions[0]}"
fi
