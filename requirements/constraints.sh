#!/usr/bin/env bash
# Writes the versions of the lock, without hashes, as constraints for `pip install .`.
#
# pip would search for minutes among TFX's many possible versions. It cannot install the lock itself:
# overrides.txt breaks TFX's pin of tensorflow-hub, which uv allows and pip does not.
set -euo pipefail
cd "$(dirname "$0")"
overridden=$(sed -n 's/^\([a-z].*\)==.*/\1/p' overrides.txt | paste -sd '|')
{
  echo '# Written by `make lock`: pip install . -c requirements/constraints.txt'
  grep -oE '^[a-zA-Z0-9._-]+==[^ ;]+' lane_a.txt | grep -vE "^($overridden)=="
} > constraints.txt.new
mv constraints.txt.new constraints.txt
