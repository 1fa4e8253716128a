#!/usr/bin/env bash
# Runs a make target of this checkout in lane B: on the machine itself where its glibc can, else in a Debian 13 root.
#
# The root is made by debootstrap in build/trixie, which takes root rights and a mirror ($DEBIAN_MIRROR), and
# is kept; the checkout in it is a copy.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$1
if [[ $(env --unset=LANE --unset=PYTHON bash requirements/lane.sh) == b* ]]; then
  exec make LANE=b "$target"
fi
if [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null; then
  echo "make $target in lane B: glibc here is older than 2.39; a Debian 13 root needs root rights and debootstrap" \
       "(apt install debootstrap)" >&2
  exit 1
fi
root=$PWD/build/trixie
if [ ! -f "$root.made" ]; then
  echo "make $target in lane B: making a Debian 13 root in $root"
  rm -rf "$root" && mkdir -p "$root"
  debootstrap --variant=minbase --include=ca-certificates,curl,g++,git,libgl1,make,python3-dev,python3-venv trixie "$root" \
    "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" > "$root.log" 2>&1 || { tail -n 5 "$root.log" >&2; exit 1; }
  touch "$root.made"
fi
# Names and certificates as on this machine, and below the settings of pip, uv and a proxy.
cp --dereference /etc/resolv.conf "$root/etc/resolv.conf"
# Beam's workers connect to this machine by its own name.
cp --dereference /etc/hosts "$root/etc/hosts"
cp --dereference /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
mkdir -p "$root/root/tfx-vim"
# What an earlier checkout had, but for its environment.
find "$root/root/tfx-vim" -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} +
git ls-files --cached --others --exclude-standard -z | tar --create --null --files-from=- --ignore-failed-read |
  tar --extract --directory "$root/root/tfx-vim"
mapfile -t settings < <(env | grep -E '^(PIP_INDEX_URL|UV_INDEX_URL|UV_DEFAULT_INDEX|WORKERS|(https?|HTTPS?|no|NO)_(proxy|PROXY))=' || true)
# A mount namespace of its own, so that nothing stays mounted.
exec unshare --mount --pid --fork bash -euc '
  mount --rbind /dev "$1/dev"
  mount -t proc proc "$1/proc"
  exec chroot "$1" env --ignore-environment HOME=/root LANE=b TERM=dumb \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "${@:3}" make -C /root/tfx-vim "$2"
' lane_b "$root" "$target" "${settings[@]}"
