# shellcheck shell=bash
# Packs a root file system as an OCI image.

# pack OUT LAYER-TAR REFERENCE… -- CONFIG…: OUT/image.tar and OUT/references; CONFIG goes to `umoci config`. The first
# reference's tag is the one in the archive.
pack() {
	local out=$1 layer=$2 layout
	shift 2
	layout=$(mktemp -d "$out/layout.XXXXXX")
	rmdir "$layout"
	: >"$out/references"
	while [ "$1" != -- ]; do
		printf '%s\n' "$1" >>"$out/references"
		shift
	done
	shift
	umoci init --layout "$layout"
	umoci new --image "$layout:image"
	umoci raw add-layer --image "$layout:image" "$layer"
	umoci config --image "$layout:image" --os linux --architecture "$(image_architecture)" "$@"
	umoci gc --layout "$layout"
	tar -C "$layout" -cf "$out/image.tar" .
	rm -rf "$layout" "$layer"
}

image_architecture() {
	case $(uname -m) in
	x86_64) echo amd64 ;;
	aarch64) echo arm64 ;;
	*) uname -m ;;
	esac
}

# The Debian mirror that this machine's apt is set up with.
debian_mirror() {
	local mirror
	# shellcheck disable=SC2016
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1)
	[ -n "$mirror" ] || {
		echo "apt has no Debian mirror, or 'apt-get update' never ran" >&2
		return 1
	}
	printf '%s' "$mirror"
}
