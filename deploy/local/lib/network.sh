# shellcheck shell=bash
# The network namespace, with no way out of it, and the host's guard against traffic meant for it.

run=${run:?} netns=${netns:?} node_ip=${node_ip:?}

# free_range PREFIX: no route of the host lies within it or, the default route apart, around it.
free_range() {
	[ -z "$(ip -4 route show table all root "$1" 2>/dev/null)" ] &&
		! ip -4 route show table all match "$1" 2>/dev/null | grep -qv -e '^default' -e '^unreachable default'
}

# Chosen once for a cluster's life: the usual ranges, or others where the host uses those.
choose_ranges() {
	local i
	if [ -e "$run/network" ]; then
		read -r pod_range service_range <"$run/network"
	else
		for ((i = 0; ; i++)); do
			[ "$i" -lt 10 ] || fail "the network: every range from 10.244 to 10.253 and 10.96 to 10.105 is used on this host (ip route)"
			pod_range=10.$((244 + i)).0.0/24
			service_range=10.$((96 + i)).0.0/16
			free_range "$pod_range" && free_range "$service_range" && break
		done
		printf '%s %s\n' "$pod_range" "$service_range" >"$run/network"
	fi
	service_ip=${service_range%.0.0/16}.0.1
}

make_network() {
	choose_ranges
	local range
	# The same address typed outside would leave the machine.
	for range in "$pod_range" "$service_range"; do
		ip -4 route show type unreachable "$range" | grep -q . || ip -4 route add unreachable "$range"
	done
	mkdir -p /run/netns
	[ -e "/run/netns/$netns" ] || ip netns add "$netns"
	in_netns bash -euo pipefail -s -- "$node_ip" "$service_range" <<'SH'
ip link set lo up
# Both ends of a pair that leads nowhere: not every kernel has dummy interfaces.
ip link show node0 >/dev/null 2>&1 || ip link add node0 type veth peer name node0-end
ip -4 address show dev node0 | grep -q "$1/30" || ip address add "$1/30" dev node0
ip link set node0-end up
ip link set node0 up
# kube-proxy rewrites what goes to a Service, but only after a route was found for it.
ip route replace "$2" dev node0
echo 1 >/proc/sys/net/ipv4/ip_forward
# An answer from a pod on the same bridge must pass the rules that rewrote the question.
[ ! -e /proc/sys/net/bridge ] || echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
SH
}

remove_network() {
	local range pod_range='' service_range=''
	[ ! -e "$run/network" ] || read -r pod_range service_range <"$run/network"
	for range in $pod_range $service_range; do
		ip -4 route del unreachable "$range" 2>/dev/null || true
	done
	if [ -e "/run/netns/$netns" ]; then
		ip netns del "$netns"
	fi
}
