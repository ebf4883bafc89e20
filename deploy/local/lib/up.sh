# shellcheck shell=bash
# From nothing, or from whatever is left, to a cluster that takes pods.

state=${state:?} run=${run:?} cache=${cache:?} netns=${netns:?} here=${here:?}

kubectl_admin() { in_netns env -u https_proxy -u HTTPS_PROXY "$state/bin/kubectl" --kubeconfig="$state/admin.kubeconfig" "$@"; }

reachable_current() {
	command -v kubectl >/dev/null || fail "CLUSTER=current needs kubectl on PATH"
	local context answer
	context=$(kubectl config current-context 2>&1) || fail "CLUSTER=current: $context"
	answer=$(kubectl --request-timeout=10s get --raw /readyz 2>&1) || fail "the cluster of context $context does not answer: $answer"
	say "using the cluster of context $context"
}

# What was left by another boot, or lost its namespace, can't be mended: its pods have no network.
clear_stale() {
	[ -e "$state" ] || [ -e "$run" ] || return 0
	if [ ! -e "/run/netns/$netns" ] || [ "$(cat "$run/boot" 2>/dev/null)" != "$(cat /proc/sys/kernel/random/boot_id)" ]; then
		say "clearing away what is left of an earlier cluster"
		take_away
	fi
}

make_directories() {
	local dir
	mkdir -p "$run/pids"
	for dir in /var/lib/kubelet /var/lib/cni /var/log/containers; do
		# Written by parts that know no other place; taken away with the cluster where it was not there before.
		[ -e "$run/made" ] || [ -e "$dir" ] || printf '%s\n' "$dir" >>"$run/made.new"
	done
	[ -e "$run/made" ] || { touch "$run/made.new" && mv "$run/made.new" "$run/made"; }
	cat /proc/sys/kernel/random/boot_id >"$run/boot"
	mkdir -p "$state"/{logs,config,images,volumes}
	chmod 755 "$state"
}

prepare_images() {
	await containerd 30 containerd_client version
	import_images
}

node_is_ready() {
	[ "$(kubectl_admin get node "$node_name" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" = True ]
}

dns_is_ready() { in_netns curl --noproxy "*" -sf -o /dev/null http://127.0.0.1:8181/ready; }
scheduler_is_ready() { in_netns curl --noproxy "*" -skf -o /dev/null https://127.0.0.1:10259/healthz; }
controllers_are_ready() { in_netns curl --noproxy "*" -skf -o /dev/null https://127.0.0.1:10257/healthz && kubectl_admin get serviceaccount default; }
service_answers() { in_netns curl --noproxy "*" -skf -m 2 -o /dev/null "https://$service_ip/livez"; }
proxy_is_ready() { service_answers && in_netns curl --noproxy "*" -sf -o /dev/null http://127.0.0.1:10256/livez; }

cluster_build() {
	ensure_packages
	need_root
	take_lock
	build_binaries
	build_images
}

cluster_up() {
	if [ "$cluster_kind" = current ]; then
		reachable_current
		return
	fi
	local began=$SECONDS importing
	ensure_packages
	need_root
	outside_only
	take_lock
	build_binaries
	build_images
	clear_stale
	make_directories
	make_network
	make_cgroups
	make_pki
	link_binaries
	write_config

	start_etcd
	start_containerd
	prepare_images >"$state/logs/images.log" 2>&1 9>&- &
	importing=$!
	await etcd 30 in_netns curl --noproxy "*" -sf http://127.0.0.1:2379/health
	start_kube_apiserver
	await kube-apiserver 90 kubectl_admin get --raw /readyz
	kubectl_admin apply -f "$here/manifests" >"$state/logs/manifests.log" 2>&1 ||
		fail_with_log "applying deploy/local/manifests" "$state/logs/manifests.log"
	start_kube_controller_manager
	start_kube_scheduler
	await containerd 30 containerd_client version
	start_kubelet
	start_kube_proxy
	start_coredns
	start_local_path_provisioner
	wait "$importing" || fail_with_log "importing images" "$state/logs/images.log"
	await kube-controller-manager 60 controllers_are_ready
	await kube-scheduler 60 scheduler_is_ready
	await kubelet 90 node_is_ready
	await kube-proxy 60 proxy_is_ready
	await coredns 60 dns_is_ready
	is_running local-path-provisioner ||
		fail_with_log "local-path-provisioner (it ended)" "$state/logs/local-path-provisioner.log"
	say "up after $((SECONDS - began)) s; make cluster-shell opens a shell in it"
}

cluster_status() {
	local part problems=0
	if [ "$cluster_kind" = current ]; then
		reachable_current
		return
	fi
	for part in "${parts[@]}"; do
		if is_running "$part"; then
			printf '%-24s runs\n' "$part"
		else
			printf '%-24s does not run\n' "$part"
			problems=1
		fi
	done
	[ "$problems" = 0 ] && kubectl_admin get nodes,storageclasses
}
