# shellcheck shell=bash
# Debian packages and the Go compiler: installed, or named with the command that installs them.

# A command or file that proves a package is there, and the package.
package_table='
/usr/bin/containerd containerd
/usr/sbin/runc runc
/usr/lib/cni/bridge containernetworking-plugins
ip iproute2
nft nftables
conntrack conntrack
nsenter util-linux
flock util-linux
openssl openssl
/usr/bin/umoci umoci
/usr/bin/mmdebstrap mmdebstrap
/bin/busybox busybox-static
cc gcc
/usr/include/stdlib.h libc6-dev
readelf binutils
curl curl
pip3 python3-pip
/usr/bin/pg_createcluster postgresql
redis-server redis-server
redis-cli redis-tools
'

missing_packages() {
	local proof package
	while read -r proof package; do
		[ -n "$proof" ] || continue
		PATH=$PATH:/usr/sbin:/sbin command -v "$proof" >/dev/null 2>&1 || [ -e "$proof" ] || printf '%s\n' "$package"
	done <<<"$package_table" | sort -u | tr '\n' ' '
}

# Installs the packages in $missing, a list.
install_packages() {
	# shellcheck disable=SC2086,SC2154
	apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
}

ensure_packages() {
	local missing policy=/usr/sbin/policy-rc.d made_policy='' had_containerd='' had_redis='' log=$cache/apt.log
	missing=$(missing_packages)
	if [ -n "$missing" ]; then
		command -v apt-get >/dev/null || fail "missing, and this is no Debian to install them on: $missing"
		[ "$(id -u)" -eq 0 ] || fail "missing tools; install them with: sudo apt-get install --no-install-recommends $missing"
		say "installing $missing"
		# The system's own containerd and Redis must not be started by their installation, nor at the next boot.
		if [ ! -e "$policy" ]; then
			printf '#!/bin/sh\nexit 101\n' >"$policy"
			chmod 755 "$policy"
			made_policy=yes
		fi
		[ ! -e /usr/bin/containerd ] || had_containerd=yes
		[ ! -e /usr/bin/redis-server ] || had_redis=yes
		mkdir -p "$cache"
		install_packages >"$log" 2>&1 || true
		[ -z "$made_policy" ] || rm -f "$policy"
		# Told from what is there now: a log that can't be written would otherwise hide that nothing was installed.
		missing=$(missing_packages)
		[ -z "$missing" ] || fail_with_log "installing $missing" "$log"
		if [ -z "$had_containerd" ] && [ -d /run/systemd/system ]; then
			systemctl disable --now containerd.service >>"$log" 2>&1 || true
		fi
		if [ -z "$had_redis" ] && [ -d /run/systemd/system ]; then
			systemctl disable --now redis-server.service >>"$log" 2>&1 || true
		fi
	fi
	command -v go >/dev/null || fail "no Go compiler on PATH; 1.24 or newer is needed (Debian 13: sudo apt-get install golang)"
}
