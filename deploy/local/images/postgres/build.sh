#!/usr/bin/env bash
# PostgreSQL 17 from Debian trixie, laid out so that a StatefulSet can't tell it from the official image.
set -euo pipefail
recipe=$(dirname "$(readlink -f "$0")") out=$1
# shellcheck source=../lib.sh
source "$recipe/../lib.sh"

major=17 bin=/usr/lib/postgresql/17/bin root=$out/root
# No cluster is created on installation.
# shellcheck disable=SC2016 # expanded by mmdebstrap
debian_root trixie "$root" postgres /var/lib/postgresql \
	postgresql-17,postgresql-client-17,libnss-wrapper,locales,tzdata,zstd,xz-utils \
	--essential-hook='mkdir -p "$1/etc/postgresql-common"' \
	--essential-hook='echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.conf"'

chroot "$root" localedef -i en_US -c -f UTF-8 -A /usr/share/locale/locale.alias en_US.UTF-8
# LLVM, which no server needs: without it queries run uncompiled.
rm -rf "$root"/usr/lib/postgresql/*/lib/{bitcode,llvmjit*} "$root"/usr/lib/*/lib{LLVM,z3}* "$root"/usr/lib/llvm*

# As in the official image: listen everywhere, and a socket directory that any user may use.
sample=$root/usr/share/postgresql/$major/postgresql.conf.sample
sed -i "s/^#listen_addresses = .*/listen_addresses = '*'/" "$sample"
grep -q "^listen_addresses = '\*'" "$sample"
# Not by its other name, var/run: that is a link to the /run of whoever follows it.
install -d -o 999 -g 999 -m 3777 "$root/run/postgresql"
rm -rf "$root/var/lib/postgresql"
install -d -o 999 -g 999 -m 1777 "$root/var/lib/postgresql"
install -d -o 999 -g 999 -m 1777 "$root/var/lib/postgresql/data"
install -d "$root/docker-entrypoint-initdb.d"

version=$(chroot "$root" "$bin/postgres" --version | sed 's/^[^0-9]*\([0-9.]*\).*/\1/')
finish_root "$recipe" "$root" "$out/layer.tar"
pack "$out" "$out/layer.tar" docker.io/library/postgres:17 "docker.io/library/postgres:$version" -- \
	--config.entrypoint docker-entrypoint.sh --config.cmd postgres \
	--config.env "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$bin" \
	--config.env LANG=en_US.utf8 --config.env PG_MAJOR=$major --config.env "PG_VERSION=$version" \
	--config.env PGDATA=/var/lib/postgresql/data --config.volume /var/lib/postgresql/data \
	--config.exposedports 5432/tcp --config.stopsignal SIGINT
