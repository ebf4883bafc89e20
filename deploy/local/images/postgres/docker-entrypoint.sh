#!/usr/bin/env bash
# Initialises an empty data directory from the environment, then becomes the server.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }

# setting NAME [DEFAULT]: the value of $NAME, or what the file named by $NAME_FILE holds.
setting() {
	local name=$1 default=${2:-} file_name=${1}_FILE
	if [ -n "${!name:-}" ] && [ -n "${!file_name:-}" ]; then
		say "error: both $name and $file_name are set; they exclude each other"
		exit 1
	fi
	if [ -n "${!file_name:-}" ]; then
		export "$name=$(<"${!file_name}")"
	else
		export "$name=${!name:-$default}"
	fi
	unset "$file_name"
}

# Some options make the server print something and end: nothing is to be initialised for them.
only_prints() {
	local argument
	for argument in "$@"; do
		case $argument in
		-\? | --help | --describe-config | -V | --version) return 0 ;;
		esac
	done
	return 1
}

make_directories() {
	mkdir -p "$PGDATA"
	chmod 00700 "$PGDATA" || true
	mkdir -p /var/run/postgresql || true
	chmod 03775 /var/run/postgresql || true
	if [ -n "${POSTGRES_INITDB_WALDIR:-}" ]; then
		mkdir -p "$POSTGRES_INITDB_WALDIR"
	fi
	if [ "$(id -u)" = 0 ]; then
		find "$PGDATA" ! -user postgres -exec chown postgres '{}' +
		find /var/run/postgresql ! -user postgres -exec chown postgres '{}' +
		if [ -n "${POSTGRES_INITDB_WALDIR:-}" ]; then
			find "$POSTGRES_INITDB_WALDIR" ! -user postgres -exec chown postgres '{}' +
			chmod 700 "$POSTGRES_INITDB_WALDIR"
		fi
	fi
}

require_password() {
	if [ -z "$POSTGRES_PASSWORD" ] && [ "$POSTGRES_HOST_AUTH_METHOD" != trust ]; then
		say 'Error: the database is not initialised and no superuser password is given.'
		say '       Set POSTGRES_PASSWORD (or POSTGRES_PASSWORD_FILE) to a value that is not empty.'
		say '       POSTGRES_HOST_AUTH_METHOD=trust allows connections without a password; it is not recommended.'
		exit 1
	fi
}

# initdb asks for the name of the user that it runs as, and a pod may run as a number without one.
name_this_user() {
	local library
	getent passwd "$(id -u)" >/dev/null && return
	for library in /usr/lib/*/libnss_wrapper.so; do
		[ -s "$library" ] || continue
		NSS_WRAPPER_PASSWD=$(mktemp) NSS_WRAPPER_GROUP=$(mktemp)
		export LD_PRELOAD=$library NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
		printf 'postgres:x:%s:%s:PostgreSQL:%s:/bin/false\n' "$(id -u)" "$(id -g)" "$PGDATA" >"$NSS_WRAPPER_PASSWD"
		printf 'postgres:x:%s:\n' "$(id -g)" >"$NSS_WRAPPER_GROUP"
		return
	done
}

forget_this_user() {
	[ -n "${NSS_WRAPPER_PASSWD:-}" ] || return 0
	rm -f "$NSS_WRAPPER_PASSWD" "$NSS_WRAPPER_GROUP"
	unset LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
}

initialise() {
	name_this_user
	local waldir=()
	[ -z "${POSTGRES_INITDB_WALDIR:-}" ] || waldir=(--waldir "$POSTGRES_INITDB_WALDIR")
	# The arguments come as one string, quoted as in a shell. The password travels through a pipe.
	eval "initdb --username=\"\$POSTGRES_USER\" --pwfile=<(printf '%s\n' \"\$POSTGRES_PASSWORD\") \"\${waldir[@]}\" ${POSTGRES_INITDB_ARGS:-}"
	forget_this_user
	{
		printf '\n'
		[ "$POSTGRES_HOST_AUTH_METHOD" != trust ] || printf '# no password is asked of any client\n'
		printf 'host all all all %s\n' "$POSTGRES_HOST_AUTH_METHOD"
	} >>"$PGDATA/pg_hba.conf"
}

# Clients in scripts reach the temporary server through its socket only.
run_psql() {
	PGHOST='' PGHOSTADDR='' psql -v ON_ERROR_STOP=1 --no-psqlrc --no-password --username "$POSTGRES_USER" "$@"
}

create_database() {
	local found
	found=$(run_psql --dbname postgres --set db="$POSTGRES_DB" --tuples-only <<<"SELECT 1 FROM pg_database WHERE datname = :'db'")
	if [ -z "$found" ]; then
		run_psql --dbname postgres --set db="$POSTGRES_DB" <<<'CREATE DATABASE :"db"'
	fi
}

run_init_files() {
	local file
	for file in /docker-entrypoint-initdb.d/*; do
		case $file in
		*.sh)
			if [ -x "$file" ]; then
				say "$0: running $file"
				"$file"
			else
				say "$0: sourcing $file"
				# shellcheck source=/dev/null
				. "$file"
			fi
			;;
		*.sql) say "$0: running $file" && run_psql --dbname "$POSTGRES_DB" -f "$file" ;;
		*.sql.gz) say "$0: running $file" && gunzip -c "$file" | run_psql --dbname "$POSTGRES_DB" ;;
		*.sql.xz) say "$0: running $file" && xzcat "$file" | run_psql --dbname "$POSTGRES_DB" ;;
		*.sql.zst) say "$0: running $file" && zstd -dc "$file" | run_psql --dbname "$POSTGRES_DB" ;;
		'/docker-entrypoint-initdb.d/*') ;;
		*) say "$0: ignoring $file" ;;
		esac
	done
}

# with_temporary_server SERVER-ARGUMENTS…: creates the database and runs the init files before anyone can connect.
with_temporary_server() {
	[ "${1:-}" != postgres ] || shift
	set -- "$@" -c listen_addresses='' -p "${PGPORT:-5432}"
	NOTIFY_SOCKET='' PGUSER=${PGUSER:-$POSTGRES_USER} pg_ctl -D "$PGDATA" -o "$(printf '%q ' "$@")" -w start
	create_database
	run_init_files
	PGUSER=${PGUSER:-$POSTGRES_USER} pg_ctl -D "$PGDATA" -m fast -w stop
}

main() {
	case ${1:-} in
	-*) set -- postgres "$@" ;;
	esac
	if [ "${1:-}" = postgres ] && ! only_prints "$@"; then
		make_directories
		if [ "$(id -u)" = 0 ]; then
			exec gosu postgres "${BASH_SOURCE[0]}" "$@"
		fi
		if [ -s "$PGDATA/PG_VERSION" ]; then
			say 'PostgreSQL Database directory appears to contain a database; Skipping initialization'
		else
			setting POSTGRES_PASSWORD
			setting POSTGRES_USER postgres
			setting POSTGRES_DB "$POSTGRES_USER"
			setting POSTGRES_INITDB_ARGS
			setting POSTGRES_HOST_AUTH_METHOD scram-sha-256
			require_password
			# Fails early, before the work, when an init file can't be listed.
			ls /docker-entrypoint-initdb.d/ >/dev/null
			initialise
			PGPASSWORD=${PGPASSWORD:-$POSTGRES_PASSWORD}
			export PGPASSWORD
			with_temporary_server "$@"
			unset PGPASSWORD
			say 'PostgreSQL init process complete; ready for start up.'
		fi
	fi
	exec "$@"
}

main "$@"
