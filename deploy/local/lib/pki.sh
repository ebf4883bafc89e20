# shellcheck shell=bash
# Certificates and kubeconfigs, made once for a cluster's life. Elliptic curves: a key takes no time.

state=${state:?} node_ip=${node_ip:?} node_name=${node_name:?}

new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

new_authority() {
	new_key "$pki/$1.key"
	openssl req -x509 -new -key "$pki/$1.key" -sha256 -days 3650 -subj "/CN=understudy-local-$1" -out "$pki/$1.crt" \
		-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
}

# new_certificate NAME SUBJECT USAGE [ALTERNATIVE-NAMES]
new_certificate() {
	local name=$1 subject=$2 usage=$3 names=${4:-}
	new_key "$pki/$name.key"
	openssl req -new -key "$pki/$name.key" -subj "$subject" -out "$pki/$name.csr"
	{
		printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=%s\n' "$usage"
		[ -z "$names" ] || printf 'subjectAltName=%s\n' "$names"
	} >"$pki/$name.ext"
	openssl x509 -req -in "$pki/$name.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -sha256 -days 3650 \
		-extfile "$pki/$name.ext" -out "$pki/$name.crt"
	rm "$pki/$name.csr" "$pki/$name.ext"
}

# new_kubeconfig NAME SUBJECT [FILE]: a client with a certificate of its own. The address is the loopback one: the same
# file used outside the namespace reaches nothing.
new_kubeconfig() {
	local name=$1 file=${3:-$pki/$1.kubeconfig}
	new_certificate "$name" "$2" clientAuth
	cat >"$file" <<-YAML
		apiVersion: v1
		kind: Config
		current-context: understudy-local
		clusters:
		- name: understudy-local
		  cluster:
		    server: https://127.0.0.1:6443
		    certificate-authority-data: $(base64 -w0 "$pki/ca.crt")
		contexts:
		- name: understudy-local
		  context: {cluster: understudy-local, user: $name}
		users:
		- name: $name
		  user:
		    client-certificate-data: $(base64 -w0 "$pki/$name.crt")
		    client-key-data: $(base64 -w0 "$pki/$name.key")
	YAML
}

make_pki() {
	local pki=$state/pki services=kubernetes.default
	[ ! -e "$pki/complete" ] || return 0
	rm -rf "$pki"
	mkdir -m 700 "$pki"
	(
		umask 077
		new_authority ca
		new_key "$pki/service-accounts.key"
		new_certificate apiserver /CN=kube-apiserver serverAuth \
			"IP:127.0.0.1,IP:$node_ip,IP:$service_ip,DNS:localhost,DNS:kubernetes,DNS:$services,DNS:$services.svc,DNS:$services.svc.cluster.local"
		new_certificate apiserver-to-kubelet /O=understudy:kubelet-clients/CN=kube-apiserver clientAuth
		new_certificate kubelet-serving "/O=system:nodes/CN=system:node:$node_name" serverAuth "IP:$node_ip,DNS:$node_name"
		new_kubeconfig kubelet "/O=system:nodes/CN=system:node:$node_name"
		new_kubeconfig kube-controller-manager /CN=system:kube-controller-manager
		new_kubeconfig kube-scheduler /CN=system:kube-scheduler
		new_kubeconfig kube-proxy /CN=system:kube-proxy
		new_kubeconfig coredns /CN=understudy:coredns
		new_kubeconfig local-path-provisioner /CN=understudy:local-path-provisioner
		new_kubeconfig admin /O=system:masters/CN=admin "$state/admin.kubeconfig"
	) >"$state/logs/pki.log" 2>&1 || fail_with_log "making the certificates" "$state/logs/pki.log"
	touch "$pki/complete"
}
