# shellcheck shell=bash
# Long-running parts: started in the namespace, remembered by pid and start time, stopped by these alone.

run=${run:?} state=${state:?} netns=${netns:?}
cgroup_root=/sys/fs/cgroup

# The second field of /proc/PID/stat may hold blanks; what follows its closing bracket does not.
start_time() {
	local stat
	stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
	stat=${stat##*) }
	[ "${stat%% *}" != Z ] || return 1
	# shellcheck disable=SC2086 # fields
	set -- $stat
	printf '%s' "${20}"
}

# A pid alone proves nothing once numbers are used again.
is_running() {
	local pid since
	{ read -r pid since <"$run/pids/$1"; } 2>/dev/null || return 1
	[ -n "$since" ] && [ "$(start_time "$pid")" = "$since" ]
}

# The hierarchies in which the cluster has a directory of its own: each of v1's, or the one of v2.
cgroup_hierarchies() {
	local dir
	if [ -e "$cgroup_root/cgroup.controllers" ]; then
		printf '%s\n' "$cgroup_root"
		return
	fi
	for dir in "$cgroup_root"/*/; do
		[ ! -L "${dir%/}" ] && [ -e "$dir/cgroup.procs" ] && printf '%s\n' "${dir%/}"
	done
	return 0
}

# `understudy` is kubelet's root; `understudy/parts` holds our own processes, so that `down` finds their children too.
make_cgroups() {
	local top file
	while read -r top; do
		mkdir -p "$top/understudy/parts"
		if [ -e "$top/cgroup.controllers" ]; then
			for file in "$top" "$top/understudy"; do
				sed 's/[^ ]*/+&/g' "$file/cgroup.controllers" >"$file/cgroup.subtree_control" 2>/dev/null || true
			done
		fi
		# A cpuset of v1 is born empty and takes no process until it is filled.
		for file in cpuset.cpus cpuset.mems; do
			[ -e "$top/understudy/$file" ] || continue
			cat "$top/$file" >"$top/understudy/$file"
			cat "$top/$file" >"$top/understudy/parts/$file"
		done
	done < <(cgroup_hierarchies)
}

# Where our own processes are counted: v1's pids (or the last there is), or v2.
parts_cgroup() {
	local top last=
	while read -r top; do
		last=$top
		[ "${top##*/}" = pids ] && break
	done < <(cgroup_hierarchies)
	printf '%s' "$last/understudy/parts"
}

# Of a small machine's memory and its two cores, the cores are what lacks: garbage is collected less often.
part_environment=(GOGC=400 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)

# start NAME CMD…: nothing where the same command line runs already; one that differs is replaced.
start() {
	local name=$1 log=$state/logs/$1.log wanted pid files
	shift
	shopt -s nullglob
	files=("$state/config/$name."*)
	shopt -u nullglob
	wanted=$({ printf '%s\0' "${part_environment[@]}" "$@" "$(readlink -f "$1")"; cat /dev/null "${files[@]}"; } | sha256sum)
	if is_running "$name"; then
		[ "$(cat "$run/pids/$name.command" 2>/dev/null)" = "$wanted" ] && return 0
		stop "$name"
	fi
	local group
	group=$(parts_cgroup)
	# shellcheck disable=SC2016 # expanded by the inner shell
	setsid bash -c 'echo $$ >"$1/cgroup.procs"; shift; exec nsenter --net="$@"' start "$group" "/run/netns/$netns" -- \
		env -i "${part_environment[@]}" "$@" >>"$log" 2>&1 </dev/null 9>&- &
	pid=$!
	disown "$pid"
	# setsid forks only when it leads a group already, which a background job of a script does not.
	printf '%s %s\n' "$pid" "$(start_time "$pid")" >"$run/pids/$name"
	printf '%s\n' "$wanted" >"$run/pids/$name.command"
}

# stop NAME: asks, waits ten seconds, then insists.
stop() {
	local name=$1 pid since i
	if is_running "$name"; then
		read -r pid since <"$run/pids/$name"
		kill "$pid" 2>/dev/null || true
		for ((i = 0; i < 100; i++)); do
			[ "$(start_time "$pid")" = "$since" ] || break
			[ "$i" -ne 80 ] || kill -KILL "$pid" 2>/dev/null || true
			sleep 0.1
		done
	fi
	rm -f "$run/pids/$name" "$run/pids/$name.command"
}

# await NAME SECONDS CMD…: until CMD succeeds; fails with NAME's log when it doesn't, or when the part died.
await() {
	local name=$1 deadline=$((SECONDS + $2))
	shift 2
	until "$@" >/dev/null 2>&1; do
		is_running "$name" || fail_with_log "$name (it ended)" "$state/logs/$name.log"
		[ "$SECONDS" -lt "$deadline" ] || fail_with_log "$name (not ready in time)" "$state/logs/$name.log"
		sleep 0.2
	done
}
