#!/usr/bin/env bash
# Becomes the server, as its own user. What starts with a dash or ends in .conf is the server's.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }

# set_in FILE NAME: whether a configuration file, or one that it includes, has a line of that name.
set_in() {
	local file=$1 name=$2 line included
	[ -r "$file" ] || return 1
	while read -r line; do
		case ${line,,} in
		"$name"[[:space:]]*) return 0 ;;
		include[[:space:]]*)
			line=${line#* }
			line=${line//[\"\']/}
			# Includes may be patterns.
			for included in $line; do
				! set_in "$included" "$name" || return 0
			done
			;;
		esac
	done < <(tr '\t' ' ' <"$file"; echo)
	return 1
}

# open_to_pods ARGUMENTS…: whether the server is to answer others than itself without a password, as the official image's is built to do.
# Debian's is not, so it is told with an argument, unless the user has said something about it.
open_to_pods() {
	local argument
	case ${1:-} in
	-v | -h | --help | --version | --test-memory | --check-system) return 1 ;;
	-*) ;;
	?*) ! set_in "$1" protected-mode || return 1 ;;
	esac
	for argument in "$@"; do
		case ${argument,,} in
		--protected-mode* | --sentinel) return 1 ;;
		esac
	done
}

# Owned by the server's user, where nothing but the server's own files lies there: others may be somebody's.
own_data() {
	local unknown
	unknown=$(find . -mindepth 1 -maxdepth 1 ! -name '*.rdb' ! \( -type d -name appendonlydir \) -print -quit)
	if [ -z "$unknown" ]; then
		find . ! -user redis -exec chown redis '{}' +
	else
		say "Notice: Unknown file '$unknown' found in data dir. Permissions will not be modified. Use SKIP_FIX_PERMS=1 to skip permission changes."
	fi
}

case ${1:-} in
-* | *.conf) set -- redis-server "$@" ;;
esac

case ${1##*/} in
redis-server | redis-sentinel)
	# Without the capability to become another user, root stays root.
	if [ "$(id -u)" = 0 ] && [ -z "${SKIP_DROP_PRIVS:-}" ] && gosu redis true 2>/dev/null; then
		[ -n "${SKIP_FIX_PERMS:-}" ] || own_data
		exec gosu redis "$0" "$@"
	fi
	[ "$(umask)" != 0022 ] || umask 0077
	;;
esac
if [ "${1##*/}" = redis-server ] && open_to_pods "${@:2}"; then
	set -- "$@" --protected-mode no
fi
exec "$@"
