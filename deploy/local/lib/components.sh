# shellcheck shell=bash
# Each part of the cluster, its configuration and its command line.

state=${state:?} run=${run:?} here=${here:?}
bin=$state/bin pki=$state/pki config=$state/config

# In the order in which they are started; `down` goes the other way.
parts=(etcd kube-apiserver containerd kube-controller-manager kube-scheduler kubelet kube-proxy coredns local-path-provisioner)

# render NAME: config/NAME of this directory, its @PLACEHOLDERS@ filled in. Only a difference is written: kube-proxy ends
# when its file is touched.
render() {
	sed -e "s|@STATE@|$state|g" -e "s|@RUN@|$run|g" -e "s|@PKI@|$pki|g" -e "s|@NODE_IP@|$node_ip|g" \
		-e "s|@NODE_NAME@|$node_name|g" -e "s|@POD_RANGE@|$pod_range|g" "$here/config/$1" >"$config/.new"
	cmp -s "$config/.new" "$config/$1" || mv "$config/.new" "$config/$1"
}

write_config() {
	local file
	for file in "$here"/config/*; do
		render "${file##*/}"
	done
	mkdir -p "$state/cni"
	rm -f "$config/.new"
	cmp -s "$config/cni.conflist" "$state/cni/10-understudy.conflist" ||
		cp "$config/cni.conflist" "$state/cni/10-understudy.conflist"
}

start_etcd() {
	start etcd "$bin/etcd" --name=local --data-dir="$state/etcd" --unsafe-no-fsync \
		--listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
		--listen-peer-urls=http://127.0.0.1:2380 --initial-advertise-peer-urls=http://127.0.0.1:2380 \
		--initial-cluster=local=http://127.0.0.1:2380 --log-level=warn
}

# The audit log is what the tests count the operator's requests in; it holds no bodies.
start_kube_apiserver() {
	start kube-apiserver "$bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
		--advertise-address="$node_ip" --bind-address=0.0.0.0 --secure-port=6443 \
		--service-cluster-ip-range="$service_range" --allow-privileged=true \
		--authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
		--client-ca-file="$pki/ca.crt" --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
		--kubelet-certificate-authority="$pki/ca.crt" --kubelet-client-certificate="$pki/apiserver-to-kubelet.crt" \
		--kubelet-client-key="$pki/apiserver-to-kubelet.key" --kubelet-preferred-address-types=InternalIP \
		--service-account-issuer=https://kubernetes.default.svc.cluster.local \
		--service-account-key-file="$pki/service-accounts.key" --service-account-signing-key-file="$pki/service-accounts.key" \
		--audit-policy-file="$config/kube-apiserver.audit.yaml" --audit-log-path="$state/audit.log" \
		--audit-log-maxsize=1000 --audit-log-maxbackup=4
}

start_containerd() {
	start containerd /usr/bin/containerd --config "$config/containerd.toml"
}

start_kube_controller_manager() {
	start kube-controller-manager "$bin/kube-controller-manager" --kubeconfig="$pki/kube-controller-manager.kubeconfig" \
		--leader-elect=false --use-service-account-credentials=true --root-ca-file="$pki/ca.crt" \
		--service-account-private-key-file="$pki/service-accounts.key" \
		--cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" --bind-address=127.0.0.1
}

start_kube_scheduler() {
	start kube-scheduler "$bin/kube-scheduler" --kubeconfig="$pki/kube-scheduler.kubeconfig" --leader-elect=false \
		--bind-address=127.0.0.1
}

start_kubelet() {
	start kubelet "$bin/kubelet" --config="$config/kubelet.yaml" --kubeconfig="$pki/kubelet.kubeconfig" \
		--root-dir="$state/kubelet" --hostname-override="$node_name" --node-ip="$node_ip"
}

# One that has lived through a restart of the API server can be left with the empty chain of an endpoint that went and came back: then it
# starts over, from no rules at all.
start_kube_proxy() {
	if is_running kube-proxy && ! service_answers; then
		stop kube-proxy
	fi
	is_running kube-proxy || in_netns nft delete table ip kube-proxy 2>/dev/null || true
	start kube-proxy "$bin/kube-proxy" --config="$config/kube-proxy.yaml"
}

start_coredns() { start coredns "$bin/coredns" -conf "$config/coredns.corefile"; }

start_local_path_provisioner() {
	start local-path-provisioner "$bin/local-path-provisioner" start --kubeconfig="$pki/local-path-provisioner.kubeconfig" \
		--config="$config/local-path-provisioner.json" --namespace=kube-system --configmap-name=local-path-provisioner \
		--helper-image=docker.io/library/busybox:1.36 --service-account-name=local-path-provisioner
}
