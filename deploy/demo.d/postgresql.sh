# shellcheck shell=bash
# What deploy/demo needs to know of PostgreSQL.
# shellcheck disable=SC2034 # read by deploy/demo
product=PostgreSQL prefix=POSTGRESQL container=postgresql read_only='read-only transaction' what_is_left='slot, role or line in pg_hba.conf'

psql_in() { in_pod "$1" psql -U orders -XAtqc "$2"; }
show_psql() { show_in_pod "$1" psql -U orders -c "$2"; }

count_orders() { psql_in "$1" 'SELECT count(*) FROM orders'; }
show_orders() { show_psql "$1" 'SELECT count(*) AS orders, max(placed_at) AS last FROM orders'; }
place_order() { psql_in "$1" 'INSERT INTO orders (pieces) VALUES (1) RETURNING id'; }
has_order() { [ "$(psql_in "$1" "SELECT count(*) FROM orders WHERE id = $2")" = 1 ]; }
show_role() { show_psql "$1" 'SELECT count(*) AS orders, pg_is_in_recovery() AS standby FROM orders'; }
show_link() { show_psql orders-db-0 'SELECT application_name, state, pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) AS bytes_behind FROM pg_stat_replication'; }
show_write() { show_psql "$1" 'DELETE FROM orders'; }
count_left() {
	psql_in "$1" "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_roles WHERE rolname LIKE 'understudy%')
		+ (SELECT count(*) FROM pg_hba_file_rules WHERE array_to_string(user_name, ',') LIKE '%understudy%')"
}
show_empty() { show_in_pod "$1" psql -U reports -c '\dt'; }
