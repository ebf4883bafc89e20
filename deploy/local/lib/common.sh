# shellcheck shell=bash
# Where things are, how things are said, and the way into the cluster's network.

here=${here:?}
tree=$(dirname "$(dirname "$here")")
cache=${UNDERSTUDY_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/understudy}
state=${UNDERSTUDY_STATE:-/var/lib/understudy-local}
run=/run/understudy
netns=understudy
node_name=understudy
node_ip=192.0.2.2
cluster_kind=${CLUSTER:-local}

say() { printf '%s\n' "cluster: $*" >&2; }

fail() {
	printf '%s\n' "cluster: $*" >&2
	exit 1
}

# fail_with_log PART LOGFILE: a failure names its part and shows the end of its log.
fail_with_log() {
	say "$1 failed; the end of $2:"
	tail -n 30 "$2" >&2 || true
	exit 1
}

need_root() {
	[ "$(id -u)" -eq 0 ] || fail "this needs root: network namespaces, mounts and cgroups are made. Try: sudo -E $0 $command"
}

# One change at a time. The lock lies in the cache, so that nothing of it stays in the state directory.
take_lock() {
	mkdir -p "$cache"
	exec 9>"$cache/lock"
	flock -n 9 || {
		say "waiting for another cluster command to finish"
		flock 9
	}
}

# hash_of FILE…: one key for the files' names (relative to this directory) and contents.
hash_of() {
	(cd "$here" && find "$@" -type f -print0 | sort -z | xargs -0 sha256sum) | sha256sum | cut -c1-16
}

# Routes are the host's, and `down` ends whatever runs inside.
outside_only() {
	[ ! "/proc/self/ns/net" -ef "/run/netns/$netns" ] || fail "$command works from outside the cluster's network; leave its shell first"
}

in_netns() { nsenter --net="/run/netns/$netns" -- "$@"; }

set_environment() {
	export KUBECONFIG=$state/admin.kubeconfig
	export UNDERSTUDY_CLUSTER_STATE=$state
	export UNDERSTUDY_NETNS=1
	export PATH=$state/bin:$here/bin:$PATH
	# Nothing in there can reach a proxy.
	unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
}

# enter CMD…: becomes CMD. nsenter and not `ip netns exec`, which remounts /sys and hides the cgroups.
enter() {
	[ $# -gt 0 ] || fail "enter: no command given"
	[ "$cluster_kind" = current ] && exec "$@"
	if [ ! -e "/run/netns/$netns" ] || [ ! -e "$state/admin.kubeconfig" ]; then
		fail "there is no local cluster; make one with: make cluster-up"
	fi
	[ -n "${UNDERSTUDY_NETNS:-}" ] && [ "/proc/self/ns/net" -ef "/run/netns/$netns" ] && {
		set_environment
		exec "$@"
	}
	need_root
	set_environment
	exec nsenter --net="/run/netns/$netns" -- "$@"
}

cluster_shell() {
	if [ "$cluster_kind" = current ]; then
		PATH=$here/bin:$PATH exec bash
	fi
	printf '%s\n' 'kubectl, helm, kubeconform; psql in a pod: db NAMESPACE POD [psql arguments…]; leave with exit' >&2
	enter bash
}
