#!/usr/bin/env bash
# Prints the versions of a lock without hashes, as constraints for `pip install .`.
#
# pip would search for minutes among TFX's many possible versions. It cannot install lane A's lock itself:
# lane_a_overrides.txt breaks TFX's pin of tensorflow-hub, which uv allows and pip does not.
set -euo pipefail
cd "$(dirname "$0")"
overrides=${1%.txt}_overrides.txt
overridden=nothing
if [ -f "$overrides" ]; then
  overridden=$(sed -n 's/^\([a-z].*\)==.*/\1/p' "$overrides" | paste -sd '|')
fi
echo '# Written by `make lock`: the versions of '"$1"', as constraints for pip.'
grep -oE '^[a-zA-Z0-9._-]+==[^\\]+' "$1" | sed 's/ *$//' | grep -vE "^($overridden)=="
