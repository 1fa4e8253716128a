#!/usr/bin/env bash
# Compares the locks with the known vulnerabilities of PyPI's database, by pip-audit in an environment of its own.
#
# It tells what is known, and fails if anything is: lane A ends with Python 3.10, whose releases get no fixes any more.
set -euo pipefail
cd "$(dirname "$0")"

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
../.venv/bin/python -m venv "$tools"
"$tools/bin/pip" install --quiet --disable-pip-version-check pip-audit
status=0
for lock in lane_a lane_b image_cpu image_gpu image_tpu; do
  echo "$lock.txt"
  "$tools/bin/pip-audit" --strict --progress-spinner off --disable-pip --require-hashes \
    --requirement "$lock.txt" || status=1
done
exit "$status"
