#!/usr/bin/env bash
# Writes the locks: of the two lanes with the tools of a developer, of the image without them, and of the newest kfp.
#
# `bash requirements/lock.sh --upgrade` takes newer releases; without it, those in the locks are kept where they fit.
set -euo pipefail
cd "$(dirname "$0")"

lock() {
  ../.venv/bin/uv pip compile --quiet --no-python-downloads --generate-hashes --custom-compile-command 'make lock' "$@"
}

lock "$@" --python-version 3.10 --override lane_a_overrides.txt lane_a.in dev.in --output-file lane_a.txt
lock "$@" --python-version 3.11 --universal lane_b.in dev.in --output-file lane_b.txt
lock "$@" --python-version 3.10 --universal kfp.in --output-file kfp.txt

# What is in the image is what was tested: the releases of lane B. Its Python is the Dockerfile's.
versions=$(mktemp)
trap 'rm -f "$versions"' EXIT
bash constraints.sh lane_b.txt > "$versions"
image=(--python-version 3.13 --python-platform x86_64-manylinux_2_40)
lock "${image[@]}" --constraint "$versions" lane_b.in --output-file image_cpu.txt
lock "${image[@]}" --constraint "$versions" image_gpu.in --output-file image_gpu.txt
grep -vE '^(tensorflow|tensorboard|tf-keras)==' "$versions" > "$versions.tpu"
lock "${image[@]}" --constraint "$versions.tpu" --override image_tpu_overrides.txt image_tpu.in \
  --output-file image_tpu.txt
rm "$versions.tpu"
# The name of a scratch file, another one each time.
sed -i "\|$versions|d" image_*.txt

for lane in a b; do
  bash constraints.sh "lane_$lane.txt" > "constraints_$lane.txt.new"
  mv "constraints_$lane.txt.new" "constraints_$lane.txt"
done
