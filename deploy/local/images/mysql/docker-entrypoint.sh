#!/usr/bin/env bash
# Initialises a new data directory from the environment, then becomes the server.
set -euo pipefail

say() { printf '%s [Entrypoint]: %s\n' "$(date --rfc-3339=seconds)" "$*" >&2; }

fail() {
	say "error: $*"
	exit 1
}

# setting NAME [DEFAULT]: the value of $NAME, or what the file named by $NAME_FILE holds.
setting() {
	local name=$1 default=${2:-} file_name=${1}_FILE
	if [ -n "${!name:-}" ] && [ -n "${!file_name:-}" ]; then
		fail "both $name and $file_name are set; they exclude each other"
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
		-\? | --help | --print-defaults | -V | --version) return 0 ;;
		esac
	done
	return 1
}

# read_configuration SERVER ARGUMENTS…: what it would run with, its defaults, files and arguments together.
read_configuration() {
	local errors
	errors=$(mktemp)
	# Even for this it would start the index of its binary log, and the data directory would no longer be empty.
	if ! configuration=$("$@" --verbose --help --log-bin-index="$(mktemp -u)" 2>"$errors"); then
		fail "$* does not accept its configuration: $(cat "$errors")"
	fi
	rm "$errors"
	data=$(configured datadir)
	data=${data%/}
	socket=$(configured socket)
}

configured() { sed -n "/^$1  */{s///p;q}" <<<"$configuration"; }

make_directories() {
	local name value directories=("$data" "$(dirname "$socket")")
	for name in pid-file general-log-file slow-query-log-file; do
		value=$(configured "$name")
		[[ $value != /* ]] || directories+=("$(dirname "$value")")
	done
	value=$(configured secure-file-priv)
	[[ $value != /* ]] || directories+=("$value")
	mkdir -p "${directories[@]}"
	if [ "$(id -u)" = 0 ]; then
		find "${directories[@]}" ! -user mysql -exec chown --no-dereference mysql '{}' +
	fi
}

# Clients look for it where the server was built to have it.
link_socket() {
	local usual=/var/run/mysqld/mysqld.sock
	[ "$socket" = "$usual" ] || ln -sfT "$socket" "$usual" || true
}

check_settings() {
	if [ -z "$MYSQL_ROOT_PASSWORD" ] && [ -z "${MYSQL_ALLOW_EMPTY_PASSWORD:-}" ] && [ -z "${MYSQL_RANDOM_ROOT_PASSWORD:-}" ]; then
		fail 'the database is not initialised and no root password is given:' \
			'set one of MYSQL_ROOT_PASSWORD, MYSQL_ALLOW_EMPTY_PASSWORD, MYSQL_RANDOM_ROOT_PASSWORD'
	fi
	[ "$MYSQL_USER" != root ] || fail 'MYSQL_USER is for another user than root, which is there anyway'
	if [ -n "$MYSQL_USER" ] && [ -z "$MYSQL_PASSWORD" ]; then
		say 'warning: MYSQL_USER is set and MYSQL_PASSWORD is not: the user will not be created'
	elif [ -z "$MYSQL_USER" ] && [ -n "$MYSQL_PASSWORD" ]; then
		say 'warning: MYSQL_PASSWORD is set and MYSQL_USER is not: it will be ignored'
	fi
	# Fails now rather than halfway when an init file can't be listed.
	ls /docker-entrypoint-initdb.d/ >/dev/null
}

# Answers on its socket alone.
start_temporary_server() {
	"$@" --skip-networking --default-time-zone=SYSTEM --socket="$socket" &
	server=$!
	until mysqladmin --protocol=socket --socket="$socket" --silent ping >/dev/null 2>&1; do
		kill -0 "$server" 2>/dev/null || fail 'the temporary server ended'
		sleep 0.2
	done
}

stop_temporary_server() {
	kill "$server"
	wait "$server" || fail 'the temporary server did not end well'
}

root_password=''
run_sql() { MYSQL_PWD=$root_password mysql --protocol=socket --socket="$socket" --host=localhost --user=root --comments "$@"; }

# A string, and a name, as SQL writes them.
string() {
	local text=${1//\\/\\\\}
	printf "'%s'" "${text//\'/\'\'}"
}
# shellcheck disable=SC2016
name() { printf '`%s`' "${1//\`/\`\`}"; }

create_root() {
	local password
	if [ -n "${MYSQL_RANDOM_ROOT_PASSWORD:-}" ]; then
		MYSQL_ROOT_PASSWORD=$(head -c 24 /dev/urandom | base64)
		export MYSQL_ROOT_PASSWORD
		say "GENERATED ROOT PASSWORD: $MYSQL_ROOT_PASSWORD"
	fi
	password=$(string "$MYSQL_ROOT_PASSWORD")
	{
		# These accounts are each server's own.
		echo 'SET autocommit = 1; SET SESSION sql_log_bin = 0;'
		echo "ALTER USER 'root'@'localhost' IDENTIFIED BY $password;"
		echo "GRANT ALL ON *.* TO 'root'@'localhost' WITH GRANT OPTION;"
		if [ "$MYSQL_ROOT_HOST" != localhost ]; then
			echo "CREATE USER 'root'@$(string "$MYSQL_ROOT_HOST") IDENTIFIED BY $password;"
			echo "GRANT ALL ON *.* TO 'root'@$(string "$MYSQL_ROOT_HOST") WITH GRANT OPTION;"
		fi
		echo 'DROP DATABASE IF EXISTS test;'
	} | run_sql mysql
	root_password=$MYSQL_ROOT_PASSWORD
}

create_database_and_user() {
	if [ -n "$MYSQL_DATABASE" ]; then
		run_sql mysql <<<"CREATE DATABASE IF NOT EXISTS $(name "$MYSQL_DATABASE")"
	fi
	if [ -n "$MYSQL_USER" ] && [ -n "$MYSQL_PASSWORD" ]; then
		run_sql mysql <<<"CREATE USER $(string "$MYSQL_USER")@'%' IDENTIFIED BY $(string "$MYSQL_PASSWORD")"
		if [ -n "$MYSQL_DATABASE" ]; then
			# In a grant an underscore stands for any character.
			run_sql mysql <<<"GRANT ALL ON $(name "${MYSQL_DATABASE//_/\\_}").* TO $(string "$MYSQL_USER")@'%'"
		fi
	fi
}

run_init_files() {
	local file database=()
	[ -z "$MYSQL_DATABASE" ] || database=("$MYSQL_DATABASE")
	for file in /docker-entrypoint-initdb.d/*; do
		say "running $file"
		case $file in
		*.sh)
			if [ -x "$file" ]; then
				"$file"
			else
				# shellcheck source=/dev/null
				. "$file"
			fi
			;;
		*.sql) run_sql "${database[@]}" <"$file" ;;
		*.sql.gz) gunzip -c "$file" | run_sql "${database[@]}" ;;
		*.sql.bz2) bunzip2 -c "$file" | run_sql "${database[@]}" ;;
		*.sql.xz) xzcat "$file" | run_sql "${database[@]}" ;;
		*.sql.zst) zstd -dc "$file" | run_sql "${database[@]}" ;;
		*) say "ignoring $file" ;;
		esac
	done
}

initialise() {
	say 'initialising the database'
	"$@" --initialize-insecure --default-time-zone=SYSTEM
	start_temporary_server "$@"
	link_socket
	if [ -z "${MYSQL_INITDB_SKIP_TZINFO:-}" ]; then
		mysql_tzinfo_to_sql /usr/share/zoneinfo | run_sql mysql
	fi
	create_root
	create_database_and_user
	run_init_files
	if [ -n "${MYSQL_ONETIME_PASSWORD:-}" ]; then
		run_sql mysql <<<"ALTER USER 'root'@$(string "$MYSQL_ROOT_HOST") PASSWORD EXPIRE"
	fi
	stop_temporary_server
	say 'MySQL init process done. Ready for start up.'
}

main() {
	case ${1:-} in
	-*) set -- mysqld "$@" ;;
	esac
	if [ "${1:-}" = mysqld ] && ! only_prints "$@"; then
		read_configuration "$@"
		make_directories
		if [ "$(id -u)" = 0 ]; then
			exec gosu mysql "${BASH_SOURCE[0]}" "$@"
		fi
		setting MYSQL_ROOT_HOST %
		setting MYSQL_ROOT_PASSWORD
		setting MYSQL_DATABASE
		setting MYSQL_USER
		setting MYSQL_PASSWORD
		if [ -d "$data/mysql" ]; then
			link_socket
		else
			check_settings
			initialise "$@"
		fi
	fi
	exec "$@"
}

shopt -s nullglob
main "$@"
