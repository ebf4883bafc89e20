#!/usr/bin/env bash
# Redis 8 from Debian sid, laid out so that a StatefulSet can't tell it from the official image.
set -euo pipefail
recipe=$(dirname "$(readlink -f "$0")") out=$1 root=$1/root
# shellcheck source=../lib.sh
source "$recipe/../lib.sh"

debian_root sid "$root" redis /home/redis redis-server,redis-tools,tzdata

# No configuration but the user's, and the programs where the official image has them as well.
rm -rf "$root/etc/redis" "$root/var/lib/redis" "$root/var/log/redis"
for program in "$root"/usr/bin/redis-*; do
	ln -s "/usr/bin/${program##*/}" "$root/usr/local/bin/${program##*/}"
done
ln -sf /usr/bin/redis-server "$root/usr/local/bin/redis-sentinel"
install -d -o 999 -g 999 "$root/data"

version=$(chroot "$root" redis-server --version | sed 's/.* v=\([0-9.]*\).*/\1/')
finish_root "$recipe" "$root" "$out/layer.tar"
pack "$out" "$out/layer.tar" docker.io/library/redis:8 "docker.io/library/redis:$version" -- \
	--config.entrypoint docker-entrypoint.sh --config.cmd redis-server --config.workingdir /data \
	--config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	--config.env "REDIS_VERSION=$version" --config.volume /data --config.exposedports 6379/tcp
