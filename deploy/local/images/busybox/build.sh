#!/usr/bin/env bash
# Debian's static busybox with its applets linked. It goes by the tag that manifests ask for, and by its own version.
set -euo pipefail
recipe=$(dirname "$(readlink -f "$0")") out=$1 busybox=/bin/busybox
# shellcheck source=../lib.sh
source "$recipe/../lib.sh"

version=$("$busybox" | sed -n '1s/^BusyBox v\([0-9.]*\).*/\1/p')
root=$out/root
mkdir -p "$root"/{bin,dev,etc,home,proc,root,sys,usr/bin,var}
mkdir -m 1777 "$root/tmp"
cp "$busybox" "$root/bin/busybox"
"$busybox" --list | grep -vx busybox | while read -r applet; do
	ln -s busybox "$root/bin/$applet"
done
ln -s ../../bin/env "$root/usr/bin/env"
printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'nobody:x:65534:65534:nobody:/home:/bin/false' >"$root/etc/passwd"
printf '%s\n' 'root:x:0:' 'nogroup:x:65534:' >"$root/etc/group"
tar -C "$root" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -cf "$out/layer.tar" .
rm -r "$root"
pack "$out" "$out/layer.tar" docker.io/library/busybox:1.36 "docker.io/library/busybox:$version" -- \
	--config.cmd sh --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
