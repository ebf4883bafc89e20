#!/usr/bin/env bash
# PostgreSQL 17 from Debian trixie, laid out so that a StatefulSet can't tell it from the official image.
set -euo pipefail
recipe=$(dirname "$(readlink -f "$0")") out=$1
# shellcheck source=../lib.sh
source "$recipe/../lib.sh"

major=17 bin=/usr/lib/postgresql/17/bin root=$out/root
mirror=$(debian_mirror)

# The user comes before the packages, so that it has the official image's numbers. No cluster is created on installation.
cat >"$out/before" <<'SH'
set -eu
echo 'postgres:x:999:999::/var/lib/postgresql:/bin/bash' >>"$1/etc/passwd"
echo 'postgres:x:999:' >>"$1/etc/group"
echo 'postgres:!:1::::::' >>"$1/etc/shadow"
mkdir -p "$1/etc/postgresql-common"
echo 'create_main_cluster = false' >"$1/etc/postgresql-common/createcluster.conf"
SH
# What no server needs: documentation, other languages, and LLVM, without which queries run uncompiled.
cat >"$out/after" <<'SH'
set -eu
chroot "$1" localedef -i en_US -c -f UTF-8 -A /usr/share/locale/locale.alias en_US.UTF-8
cd "$1"
rm -rf usr/share/doc/* usr/share/man/* usr/share/info/* usr/share/i18n usr/share/locale/[a-z]*_* usr/share/locale/[a-z][a-z] \
	usr/lib/postgresql/*/lib/bitcode usr/lib/postgresql/*/lib/llvmjit* usr/lib/*/libLLVM* usr/lib/llvm* usr/lib/*/libz3* \
	var/lib/apt/lists/* var/cache/apt/* var/cache/debconf/* var/log/* etc/ssl/private/* \
	etc/apt/sources.list etc/apt/sources.list.d/* etc/apt/apt.conf.d/99mmdebstrap etc/apt/trusted.gpg.d/*
chmod 1777 tmp
SH
chmod +x "$out/before" "$out/after"

mmdebstrap --variant=minbase --format=directory --skip=check/empty \
	--include=postgresql-17,postgresql-client-17,libnss-wrapper,locales,tzdata,zstd,xz-utils \
	--dpkgopt=force-confold --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
	--aptopt='APT::Install-Recommends "false"' \
	--essential-hook="$out/before \"\$1\"" --customize-hook="$out/after \"\$1\"" \
	trixie "$root" "deb $mirror trixie main"
rm "$out/before" "$out/after"

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
install -m 755 "$recipe/docker-entrypoint.sh" "$root/usr/local/bin/docker-entrypoint.sh"
install -m 755 "$recipe/gosu" "$root/usr/local/bin/gosu"

version=$(chroot "$root" "$bin/postgres" --version | sed 's/^[^0-9]*\([0-9.]*\).*/\1/')
tar -C "$root" --sort=name --numeric-owner --xattrs -cf "$out/layer.tar" .
rm -rf "$root"
pack "$out" "$out/layer.tar" docker.io/library/postgres:17 "docker.io/library/postgres:$version" -- \
	--config.entrypoint docker-entrypoint.sh --config.cmd postgres \
	--config.env "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$bin" \
	--config.env LANG=en_US.utf8 --config.env PG_MAJOR=$major --config.env "PG_VERSION=$version" \
	--config.env PGDATA=/var/lib/postgresql/data --config.volume /var/lib/postgresql/data \
	--config.exposedports 5432/tcp --config.stopsignal SIGINT
