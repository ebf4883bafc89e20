# shellcheck shell=bash
# Makes root file systems from Debian's packages, and packs them as OCI images.

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

# debian_root SUITE ROOT USER HOME PACKAGES [MMDEBSTRAP-OPTION…]: a root file system with Debian's PACKAGES. USER is made before them, so
# that it has the number that official images give their server's user.
debian_root() {
	local suite=$1 root=$2 user=$3 home=$4 packages=$5 mirror
	shift 5
	mirror=$(debian_mirror)
	# The Release file of an unreleased suite may be past its date on a mirror that keeps older states; its signature still counts.
	[ "$suite" != sid ] || set -- --aptopt='Acquire::Check-Valid-Until "false"' "$@"
	mmdebstrap --variant=minbase --format=directory --skip=check/empty --include="$packages" \
		--dpkgopt=force-confold --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
		--aptopt='APT::Install-Recommends "false"' \
		--essential-hook="echo '$user:x:999:999::$home:/bin/bash' >>\"\$1/etc/passwd\"" \
		--essential-hook="echo '$user:x:999:' >>\"\$1/etc/group\"" \
		--essential-hook="echo '$user:!:1::::::' >>\"\$1/etc/shadow\"" \
		"$@" "$suite" "$root" "deb $mirror $suite main"
}

# finish_root RECIPE ROOT LAYER-TAR: the entrypoint and gosu into ROOT, what no server needs out of it, and the rest as a layer.
finish_root() {
	local recipe=$1 root=$2 layer=$3
	install -m 755 "$recipe/docker-entrypoint.sh" "$recipe/../gosu" -t "$root/usr/local/bin"
	chmod 1777 "$root/tmp"
	(
		cd "$root" || exit
		rm -rf usr/share/{doc,man,info}/* usr/share/i18n usr/share/locale/[a-z]*_* usr/share/locale/[a-z][a-z] usr/share/locale/[a-z][a-z][a-z] \
			var/lib/apt/lists/* var/cache/apt/* var/cache/debconf/* var/log/* etc/ssl/private/* \
			etc/apt/sources.list etc/apt/sources.list.d/* etc/apt/apt.conf.d/99mmdebstrap etc/apt/trusted.gpg.d/*
	)
	tar -C "$root" --sort=name --numeric-owner --xattrs -cf "$layer" .
	rm -rf "$root"
}
