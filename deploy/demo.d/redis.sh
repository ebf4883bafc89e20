# shellcheck shell=bash
# What deploy/demo needs to know of Redis. The password stands in the pod's environment, where redis-cli looks for it.
# shellcheck disable=SC2034 # read by deploy/demo
product=Redis prefix=REDIS container=redis read_only=READONLY what_is_left='user'

count_orders() { in_pod "$1" redis-cli SCARD orders; }
show_orders() { show_in_pod "$1" redis-cli SCARD orders; }
place_order() {
	local id
	id=$(now)
	in_pod "$1" redis-cli SADD orders "$id" >/dev/null
	printf '%s' "$id"
}
has_order() { [ "$(in_pod "$1" redis-cli SISMEMBER orders "$2")" = 1 ]; }
show_role() { show_in_pod "$1" redis-cli ROLE | head -n 2; }
show_link() { show_in_pod orders-db-0 redis-cli INFO replication | grep -E '^slave0|^master_repl_offset' || true; }
show_write() { show_in_pod "$1" redis-cli DEL orders; }
count_left() { in_pod "$1" redis-cli ACL USERS | grep -c understudy || true; }
show_empty() { show_in_pod "$1" redis-cli DBSIZE; }
