# shellcheck shell=bash
# How the binaries are made from Go modules at pinned versions. This file is part of their key in the cache.

kubernetes_version=v1.34.4
recipes=(kubernetes etcd addons local-path-provisioner)

# go_build OUTPUT LDFLAGS PACKAGE…: nothing is downloaded but what go.sum names, and no other toolchain.
go_build() {
	local output=$1 ldflags=$2
	shift 2
	GOTOOLCHAIN=local GOWORK=off GOFLAGS='-mod=readonly -buildvcs=false' CGO_ENABLED=0 \
		go build -v -trimpath -ldflags "-s -w $ldflags" -o "$output" "$@"
}

# build_RECIPE OUTPUT-DIRECTORY, run in the recipe's directory.
build_kubernetes() {
	local v=k8s.io/component-base/version number=${kubernetes_version#v}
	local major=${number%%.*} minor=${number#*.}
	go_build "$1/" "-X $v.gitVersion=$kubernetes_version -X $v.gitMajor=$major -X $v.gitMinor=${minor%%.*} -X $v.gitTreeState=clean" \
		k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubelet,kube-proxy,kubectl}
}

build_etcd() { go_build "$1/etcd" '' go.etcd.io/etcd/server/v3; }

build_addons() {
	go_build "$1/" '' ./coredns helm.sh/helm/v3/cmd/helm github.com/yannh/kubeconform/cmd/kubeconform
}

build_local-path-provisioner() { go_build "$1/" '' github.com/rancher/local-path-provisioner; }
