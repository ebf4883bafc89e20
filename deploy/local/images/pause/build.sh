#!/usr/bin/env bash
# The container that holds a pod's namespaces.
set -euo pipefail
recipe=$(dirname "$(readlink -f "$0")") out=$1
# shellcheck source=../lib.sh
source "$recipe/../lib.sh"

mkdir "$out/root"
cc -Os -s -static -o "$out/root/pause" "$recipe/pause.c"
tar -C "$out/root" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -cf "$out/layer.tar" pause
rm -r "$out/root"
pack "$out" "$out/layer.tar" understudy.local/pause:1 -- --config.entrypoint /pause --config.user 65535:65535
