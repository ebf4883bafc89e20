# shellcheck shell=bash
# Images: built into the cache, imported into containerd. No registry is ever asked.

state=${state:?} run=${run:?} here=${here:?} cache=${cache:?}
images=(pause busybox postgres mysql redis mongodb)

image_key() { hash_of "images/$1" images/lib.sh images/gosu; }

build_image() { "$here/images/$1/build.sh" "$2"; }

build_images() {
	local name
	for name in "${images[@]}"; do
		cached "image-$name" "$(image_key "$name")" build_image "$name" >/dev/null
	done
}

unpack_image() {
	mkdir "$2/layout"
	tar -C "$2/layout" -xf "$1/image.tar"
	umoci raw unpack --image "$2/layout:image" "$2/root"
	rm -r "$2/layout"
}

# image_root [NAME]: prints a directory with an image's root file system, for tests whose servers run in it without a cluster. It is unpacked once.
image_root() {
	local name=${1:-} key image
	[ -n "$name" ] && [ -d "$here/images/$name" ] || fail "root: which image? One of: ${images[*]}"
	need_root
	take_lock
	key=$(image_key "$name")
	image=$(cached "image-$name" "$key" build_image "$name")
	printf '%s/root\n' "$(cached "root-$name" "$key" unpack_image "$image")"
}

containerd_client() { ctr --address "$run/containerd.sock" --namespace k8s.io "$@"; }

# import_image NAME DIRECTORY KEY: nothing where the same was imported before.
import_image() {
	local name=$1 directory=$2 key=$3 reference imported=understudy.local/imported/$1
	[ "$(cat "$state/images/$name" 2>/dev/null)" != "$key" ] || return 0
	containerd_client images import --base-name "$imported" "$directory/image.tar"
	while read -r reference; do
		containerd_client images tag --force "$imported:image" "$reference"
	done <"$directory/references"
	containerd_client images rm "$imported:image"
	printf '%s\n' "$key" >"$state/images/$name"
}

import_images() {
	local name key
	for name in "${images[@]}"; do
		key=$(image_key "$name")
		import_image "$name" "$cache/image-$name-$key" "$key"
	done
}

build_operator() {
	local binary=$1 out=$3
	# shellcheck source=../images/lib.sh
	source "$here/images/lib.sh"
	install -D -m 755 "$binary" "$out/root/understudy"
	tar -C "$out/root" --owner=0 --group=0 --numeric-owner --mtime=@0 -cf "$out/layer.tar" understudy
	rm -r "$out/root"
	pack "$out" "$out/layer.tar" "docker.io/library/understudy:$2" -- \
		--config.entrypoint /understudy --config.user 65532:65532
}

# operator_load [BINARY [TAG]]
operator_load() {
	local binary=${1:-$tree/target/x86_64-unknown-linux-gnu/release/understudy} tag=${2:-dev} limit=$((30 * 1024 * 1024))
	local size key directory log
	[ "$cluster_kind" != current ] || fail "load works on the local cluster; push the image to a registry that your cluster pulls from (deploy/local/images/operator/Dockerfile)"
	[ -f "$binary" ] || fail "no such file: $binary; build it with: make image"
	need_root
	take_lock
	size=$(stat -Lc %s "$binary")
	[ "$size" -le "$limit" ] || fail "the operator's image would be $((size / 1048576)) MiB, over the limit of 30 MiB"
	# No pipe: grep would end first, and the pipe's failure hide the answer.
	if [[ "$(LC_ALL=C readelf --program-headers "$binary")" = *INTERP* ]]; then
		fail "$binary is linked dynamically and would not start in an empty image; build it with: make image"
	fi
	is_running containerd || fail "there is no local cluster; make one with: make cluster-up"
	key=$({ sha256sum <"$binary"; printf '%s' "$tag"; hash_of images/lib.sh lib/images.sh; } | sha256sum | cut -c1-16)
	if [ "$(cat "$state/images/operator-$tag" 2>/dev/null)" != "$key" ]; then
		directory=$(mktemp -d "$run/operator.XXXXXX") log=$state/logs/load.log
		# shellcheck disable=SC2064
		trap "rm -rf '$directory'" EXIT
		{ (set -e; build_operator "$binary" "$tag" "$directory") && import_image "operator-$tag" "$directory" "$key"; } >"$log" 2>&1 ||
			fail_with_log "importing the operator's image" "$log"
	fi
	say "docker.io/library/understudy:$tag, $((size / 1024)) KiB"
}
