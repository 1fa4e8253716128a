#!/usr/bin/env bash
# Builds the image of the components: image.sh REPOSITORY:TAG cpu|gpu|tpu [FLAG OF THE BUILD...]
set -euo pipefail
cd "$(dirname "$0")/.."
image=$1 accelerator=$2
shift 2

if [ ! -f "requirements/image_$accelerator.txt" ]; then
  echo "make image: ACCELERATOR must be cpu, gpu or tpu, got $accelerator" >&2
  exit 1
fi
for engine in docker podman buildah; do
  if command -v "$engine" >/dev/null; then
    echo "make image: building $image for $accelerator with $engine"
    exec "$engine" build --tag "$image" --build-arg "ACCELERATOR=$accelerator" \
      --build-arg "VERSION=$(sed -n 's/^    version="\(.*\)",$/\1/p' setup.py)" \
      --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)" "$@" .
  fi
done
echo "make image: no engine that builds images: looked for docker, podman and buildah on PATH; install one" >&2
exit 1
