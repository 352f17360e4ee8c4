#!/usr/bin/env bash
# Makes a stand-in for python:3.11-slim out of Debian 12's packages, where no registry can be reached.
# It is tagged with the full name of the real one, so that the Dockerfiles find it as they are.
# Needs root, debootstrap and podman. DEBIAN_MIRROR names another mirror.
set -euo pipefail
tag=${1:-docker.io/library/python:3.11-slim}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
export CONTAINERS_CONF=${CONTAINERS_CONF:-$(cd "$(dirname "$0")" && pwd)/containers.conf}

if [ "$(id -u)" != 0 ]; then
  echo "error: debootstrap needs root; run it by sudo, or pull $tag" >&2
  exit 2
fi
for tool in debootstrap podman; do
  command -v "$tool" >/dev/null || { echo "error: $tool is missing; apt-get install $tool" >&2; exit 2; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root" "$mirror" \
  >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; exit 1; }

# As in Debian's slim images: no documentation, no translations, no package lists.
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/var/cache/debconf/*-old
rm -rf "$root"/usr/share/{man,info,doc,locale,lintian}/*
find "$root"/usr/lib/python3* -name EXTERNALLY-MANAGED -delete
ln -s /usr/bin/python3 "$root"/usr/local/bin/python

tar -C "$root" -c . | podman import -q --change 'CMD ["python3"]' - "$tag" >/dev/null
podman image inspect --format '{{index .RepoTags 0}} {{.Size}} bytes' "$tag"
