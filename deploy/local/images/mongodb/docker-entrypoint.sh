#!/usr/bin/env bash
# Creates the first user in an empty data directory, from the environment, then becomes the server.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }

fail() {
	say "error: $*"
	exit 1
}

# setting NAME: the value of $NAME, or what the file named by $NAME_FILE holds.
setting() {
	local name=$1 file_name=${1}_FILE
	if [ -n "${!name:-}" ] && [ -n "${!file_name:-}" ]; then
		fail "both $name and $file_name are set; they exclude each other"
	fi
	if [ -n "${!file_name:-}" ]; then
		export "$name=$(<"${!file_name}")"
	else
		export "$name=${!name:-}"
	fi
	unset "$file_name"
}

# has OPTION ARGUMENTS…
has() {
	local option=$1 argument
	shift
	for argument in "$@"; do
		case $argument in
		"$option" | "$option"=*) return 0 ;;
		esac
	done
	return 1
}

# value_of OPTION ARGUMENTS…: nothing where it isn't given.
value_of() {
	local option=$1
	shift
	while [ $# -gt 0 ]; do
		case $1 in
		"$option") printf '%s' "${2:-}" && return ;;
		"$option"=*) printf '%s' "${1#*=}" && return ;;
		esac
		shift
	done
}

# in_file KEY: what the configuration file, if there is one, says of it. No more of YAML is understood than such files use.
in_file() {
	[ -z "$configuration" ] || sed -nE "s/^([^#]*[ {.])?$1[\"']?[[:space:]]*:[[:space:]]*[\"']?([^\"',} ]*).*/\2/p" "$configuration"
}

data_directory() {
	local directory
	directory=$(value_of --dbpath "$@")
	[ -n "$directory" ] || directory=$(in_file dbPath)
	if [ -z "$directory" ] && { has --configsvr "$@" || [ "$(in_file clusterRole)" = configsvr ]; }; then
		directory=/data/configdb
	fi
	printf '%s' "${directory:-/data/db}"
}

is_new() {
	local file
	for file in WiredTiger journal local.0 storage.bson; do
		[ ! -e "$1/$file" ] || return 1
	done
}

init_files() { compgen -G '/docker-entrypoint-initdb.d/*.sh' || compgen -G '/docker-entrypoint-initdb.d/*.js'; }

# temporary_arguments ARGUMENTS…: those of a server without access control that only this container reaches.
temporary_arguments() {
	temporary=()
	while [ $# -gt 0 ]; do
		case $1 in
		--auth | --bind_ip_all) ;;
		--bind_ip | --port | --keyFile | --replSet | --tlsMode | --config) [ $# -lt 2 ] || shift ;;
		--bind_ip=* | --port=* | --keyFile=* | --replSet=* | --tlsMode=* | --config=*) ;;
		*) temporary+=("$1") ;;
		esac
		shift
	done
	temporary+=(--bind_ip 127.0.0.1 --port 27017)
	# Given a certificate it wants to be told how to use it.
	if has --tlsCertificateKeyFile "${temporary[@]}"; then
		temporary+=(--tlsMode allowTLS)
	fi
	if [ -n "$configuration" ]; then
		temporary_configuration=$(mktemp)
		awk '/^[^[:space:]#]/ {dropped = /^(systemLog|processManagement|net|security|replication)[.:[:space:]]/} !dropped' \
			"$configuration" >"$temporary_configuration"
		temporary+=(--config "$temporary_configuration")
	fi
}

start_temporary_server() {
	local tries
	"${temporary[@]}" &
	server=$!
	for ((tries = 0; tries < 150; tries++)); do
		kill -0 "$server" 2>/dev/null || fail 'the temporary server ended'
		! mongo-command '{"ping": 1}' >/dev/null 2>&1 || return 0
		sleep 0.2
	done
	fail 'the temporary server took no connection in time'
}

stop_temporary_server() {
	kill "$server"
	wait "$server" || fail 'the temporary server did not end well'
	[ -z "${temporary_configuration:-}" ] || rm -f "$temporary_configuration"
}

# The command comes through a pipe: arguments can be seen by others.
create_user() {
	jq --null-input --compact-output \
		'{createUser: env.MONGO_INITDB_ROOT_USERNAME, pwd: env.MONGO_INITDB_ROOT_PASSWORD, roles: [{role: "root", db: "admin"}]}' |
		mongo-command -db admin >/dev/null
	say "created user $MONGO_INITDB_ROOT_USERNAME"
}

run_init_files() {
	local file
	export MONGO_INITDB_DATABASE=${MONGO_INITDB_DATABASE:-test}
	for file in /docker-entrypoint-initdb.d/*; do
		case $file in
		*.sh)
			say "running $file"
			# shellcheck source=/dev/null
			. "$file"
			;;
		'/docker-entrypoint-initdb.d/*') ;;
		*) say "ignoring $file" ;;
		esac
	done
}

initialise() {
	# Said before anything is written: afterwards the directory would no longer count as new.
	! compgen -G '/docker-entrypoint-initdb.d/*.js' >&2 || fail 'there is no mongosh in this image to run these'
	temporary_arguments "$@"
	start_temporary_server
	[ -z "$MONGO_INITDB_ROOT_USERNAME" ] || create_user
	run_init_files
	stop_temporary_server
	say 'MongoDB init process complete; ready for start up.'
}

main() {
	case ${1:-} in
	-*) set -- mongod "$@" ;;
	esac
	if [[ ${1:-} = mongo* ]] && [ "$(id -u)" = 0 ]; then
		[ "$1" != mongod ] || find /data/configdb /data/db ! -user mongodb -exec chown mongodb '{}' +
		exec gosu mongodb "${BASH_SOURCE[0]}" "$@"
	fi
	if [ "${1:-}" = mongod ]; then
		setting MONGO_INITDB_ROOT_USERNAME
		setting MONGO_INITDB_ROOT_PASSWORD
		configuration=$(value_of --config "$@")
		[ -s "$configuration" ] || configuration=''
		if [ -n "$MONGO_INITDB_ROOT_USERNAME" ] && [ -n "$MONGO_INITDB_ROOT_PASSWORD" ]; then
			has --auth "$@" || set -- "$@" --auth
		elif [ -n "$MONGO_INITDB_ROOT_USERNAME$MONGO_INITDB_ROOT_PASSWORD" ]; then
			fail 'only one of MONGO_INITDB_ROOT_USERNAME and MONGO_INITDB_ROOT_PASSWORD is set: a user has both'
		fi
		if { [ -n "$MONGO_INITDB_ROOT_USERNAME" ] || init_files >/dev/null; } && is_new "$(data_directory "$@")"; then
			initialise "$@"
		fi
		if ! has --bind_ip "$@" && ! has --bind_ip_all "$@" && [ -z "$(in_file bindIp)$(in_file bindIpAll)" ]; then
			set -- "$@" --bind_ip_all
		fi
		unset "${!MONGO_INITDB_@}"
	fi
	exec "$@"
}

main "$@"
