#!/usr/bin/env bash
# MySQL 9.7 from Debian sid, laid out so that a StatefulSet can't tell it from the official image.
set -euo pipefail
recipe=$(dirname "$(readlink -f "$0")") out=$1 root=$1/root
# shellcheck source=../lib.sh
source "$recipe/../lib.sh"

# Without mysql-server, which is Debian's configuration and services. The clone plugin is in the core.
debian_root sid "$root" mysql /var/lib/mysql mysql-server-core,mysql-client-core,bzip2,tzdata,xz-utils,zstd

# Perl and the programs that the official image doesn't have either.
rm -rf "$root"/usr/share/perl "$root"/usr/lib/*/perl "$root"/usr/lib/*/libperl.so*
for program in "$root"/usr/bin/{mysql,myisam,innochecksum,ibd2sdi,perror}*; do
	case ${program##*/} in
	mysql | mysqladmin | mysqldump | mysql_migrate_keyring | mysql_tzinfo_to_sql) ;;
	*) rm "$program" ;;
	esac
done

# No configuration but the official image's.
rm -rf "$root"/etc/mysql "$root"/etc/my.cnf*
install -d "$root/etc/mysql/conf.d" "$root/docker-entrypoint-initdb.d"
install -m 644 "$recipe/my.cnf" "$root/etc/my.cnf"
rm -rf "$root"/var/lib/mysql*
install -d -o 999 -g 999 -m 1777 "$root/var/lib/mysql" "$root/run/mysqld"
install -d -o 999 -g 999 -m 750 "$root/var/lib/mysql-files"

version=$(chroot "$root" mysqld --version | sed 's/.* Ver \([0-9.]*\).*/\1/')
finish_root "$recipe" "$root" "$out/layer.tar"
pack "$out" "$out/layer.tar" docker.io/library/mysql:9.7 "docker.io/library/mysql:$version" -- \
	--config.entrypoint docker-entrypoint.sh --config.cmd mysqld \
	--config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	--config.env MYSQL_MAJOR=9.7 --config.env "MYSQL_VERSION=$version" \
	--config.volume /var/lib/mysql --config.exposedports 3306/tcp --config.exposedports 33060/tcp
