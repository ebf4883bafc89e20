# shellcheck shell=bash
# Binaries from Go modules at pinned versions, kept in the cache under a key of what they are made from.

kubernetes_version=v1.34.4
recipes=(kubernetes etcd addons local-path-provisioner)

recipe_key() {
	printf '%s %s %s' "$(hash_of "$1" lib/build.sh)" "$(go env GOVERSION)" "$(uname -m)" | sha256sum | cut -c1-16
}

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

# cached NAME KEY BUILDER…: the directory of NAME's product, built first where it is missing. An interrupted build
# leaves only a directory with another name, and never counts.
cached() {
	local name=$1 key=$2
	local final=$cache/$name-$key temporary=$cache/tmp.$name.$$ log=$cache/$name.log
	shift 2
	if [ ! -d "$final" ]; then
		mkdir -p "$cache"
		rm -rf "$cache/tmp.$name".*
		mkdir "$temporary"
		local began=$SECONDS pid
		say "building $name (log: $log)"
		"$@" "$temporary" >"$log" 2>&1 9>&- &
		pid=$!
		# shellcheck disable=SC2064
		trap "kill $pid 2>/dev/null; rm -rf '$temporary'; exit 130" INT TERM
		while kill -0 "$pid" 2>/dev/null; do
			sleep 0.3
			(((SECONDS - began) % 20 == 0 && SECONDS > began)) || continue
			say "  $name: $(((SECONDS - began) / 60)) min $(((SECONDS - began) % 60)) s, $(wc -l <"$log") lines of log, now: $(tail -n 1 "$log" | cut -c1-80)"
			sleep 1
		done
		trap - INT TERM
		wait "$pid" || {
			rm -rf "$temporary"
			fail_with_log "building $name" "$log"
		}
		mv -T "$temporary" "$final"
		say "built $name in $((SECONDS - began)) s"
	fi
	# What no cluster has used for two weeks is not kept.
	touch "$final"
	find "$cache" -maxdepth 1 -type d -name "$name-????????????????" -mtime +14 -exec rm -rf {} +
	printf '%s' "$final"
}

in_recipe() {
	cd "$here/$1" && "build_$1" "$2"
}

# Only one go build at a time: each uses every core by itself.
build_binaries() {
	local recipe dir
	bin_dirs=()
	for recipe in "${recipes[@]}"; do
		dir=$(cached "$recipe" "$(recipe_key "$recipe")" in_recipe "$recipe")
		bin_dirs+=("$dir")
	done
}

# Symbolic links in one directory, so that `enter` needs no keys.
link_binaries() {
	local dir file
	mkdir -p "$state/bin"
	for dir in "${bin_dirs[@]}"; do
		for file in "$dir"/*; do
			ln -sfn "$file" "$state/bin/${file##*/}"
		done
	done
}
