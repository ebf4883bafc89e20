# shellcheck shell=bash
# Takes the cluster away, whatever state it is in: what is not there is no error.

state=${state:?} run=${run:?} netns=${netns:?}

cluster_down() {
	if [ "$cluster_kind" = current ]; then
		say "CLUSTER=current: nothing was made here, nothing is taken away"
		return
	fi
	need_root
	outside_only
	take_lock
	if [ ! -e "$state" ] && [ ! -e "$run" ] && [ ! -e "/run/netns/$netns" ]; then
		say "there is no local cluster"
		return
	fi
	take_away
	say "down"
}

# our_processes: all in our cgroups, the pods' among them, and in our network namespace. A shell opened with `shell` is
# one of the latter.
our_processes() {
	local top
	{
		while read -r top; do
			[ ! -d "$top/understudy" ] || find "$top/understudy" -name cgroup.procs -exec cat {} + 2>/dev/null
		done < <(cgroup_hierarchies)
		[ ! -e "/run/netns/$netns" ] || ip netns pids "$netns" 2>/dev/null
	} | sort -un | grep -vx -e 0 -e "$$" || true
}

kill_processes() {
	local i pids
	for ((i = 0; i < 50; i++)); do
		pids=$(our_processes)
		[ -n "$pids" ] || return 0
		# shellcheck disable=SC2086 # a list
		kill -KILL $pids 2>/dev/null || true
		sleep 0.1
	done
	fail "these processes don't end: $(tr '\n' ' ' <<<"$pids")"
}

# Deepest first; a mount point may be covered by another, so it is looked at again.
unmount_all() {
	local round mounts
	for round in 1 2 3 4 5; do
		mounts=$(awk -v a="$state/" -v b="$run/" 'index($5, a) == 1 || index($5, b) == 1 {print $5}' /proc/self/mountinfo | sort -r)
		[ -n "$mounts" ] || return 0
		while read -r mount; do
			umount "$(printf '%b' "$mount")" 2>/dev/null || [ "$round" -lt 3 ] || umount -l "$(printf '%b' "$mount")" 2>/dev/null || true
		done <<<"$mounts"
	done
	fail "these stay mounted: $mounts"
}

remove_cgroups() {
	local top i
	while read -r top; do
		for ((i = 0; i < 20; i++)); do
			[ -d "$top/understudy" ] || break
			find "$top/understudy" -depth -type d -exec rmdir {} + 2>/dev/null || true
			[ ! -d "$top/understudy" ] || sleep 0.1
		done
		[ ! -d "$top/understudy" ] || fail "the cgroup $top/understudy can't be removed"
	done < <(cgroup_hierarchies)
}

# Shims keep their sockets in one directory for every containerd of a machine; ours are those in our namespace.
shim_sockets() {
	# shellcheck disable=SC2016
	[ ! -e "/run/netns/$netns" ] || in_netns awk '$8 ~ "^/run/containerd/s/" {print $8}' /proc/net/unix
}

take_away() {
	local sockets sandboxes dir
	sockets=$(shim_sockets || true)
	sandboxes=$(ls "$state/containerd/io.containerd.grpc.v1.cri/sandboxes" 2>/dev/null || true)
	# All at once and without asking: nothing of what they would save is kept.
	kill_processes
	unmount_all
	remove_network
	remove_cgroups
	# shellcheck disable=SC2086 # a list
	[ -z "$sockets" ] || rm -f $sockets
	rmdir /run/containerd/s /run/containerd 2>/dev/null || true
	[ ! -d /var/log/containers ] || find /var/log/containers -lname "$state/*" -delete
	for dir in $sandboxes; do
		rm -f "/var/lib/cni/results/cni-loopback-$dir"-*
	done
	rm -f /var/lib/cni/results/understudy-* /var/lib/kubelet/device-plugins/kubelet_internal_checkpoint
	if [ -e "$run/made" ]; then
		while read -r dir; do
			# Only what is empty by now: another kubelet may have come since.
			[ ! -d "$dir" ] || find "$dir" -depth \( -type d -empty -o -type s \) -delete 2>/dev/null || true
		done <"$run/made"
	fi
	rm -rf --one-file-system "$state" "$run"
}
