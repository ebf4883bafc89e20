# shellcheck shell=bash
# The cache: what is built is kept under a key of what it is made from.

recipe_key() {
	printf '%s %s %s' "$(hash_of "$1" lib/recipes.sh)" "$(go env GOVERSION)" "$(uname -m)" | sha256sum | cut -c1-16
}

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
		# In a process group of its own, so that an interruption ends the compiler too.
		set -m
		"$@" "$temporary" >"$log" 2>&1 </dev/null 9>&- &
		pid=$!
		set +m
		# shellcheck disable=SC2064
		trap "kill -- -$pid 2>/dev/null; rm -rf '$temporary'; exit 130" INT TERM
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
