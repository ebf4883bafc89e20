# shellcheck shell=bash
# What deploy/demo needs to know of MySQL.
# shellcheck disable=SC2034,SC2154 # read and set by deploy/demo
product=MySQL prefix=MYSQL container=mysql read_only='super-read-only' what_is_left='user or plugin'

# shellcheck disable=SC2016 # expanded in the pod, where the password is
client='MYSQL_PWD=$MYSQL_ROOT_PASSWORD exec mysql -uroot "$@"'
host=()
mysql_in() { in_pod "$1" sh -c "$client" mysql "${host[@]}" -N -e "$2"; }
show_mysql() { show_in_pod "$1" sh -c "$client" mysql "${host[@]}" -t -e "$2"; }

count_orders() { mysql_in "$1" 'SELECT count(*) FROM shop.orders'; }
show_orders() { show_mysql "$1" 'SELECT count(*) AS orders, max(placed_at) AS last FROM shop.orders'; }
place_order() { mysql_in "$1" 'INSERT INTO shop.orders (pieces) VALUES (1); SELECT last_insert_id()'; }
has_order() { [ "$(mysql_in "$1" "SELECT count(*) FROM shop.orders WHERE id = $2")" = 1 ]; }
show_role() { show_mysql "$1" 'SELECT count(*) AS orders, @@super_read_only AS read_only FROM shop.orders'; }
show_link() { show_mysql orders-db-0 'SHOW REPLICAS'; }
show_write() { show_mysql "$1" 'DELETE FROM shop.orders'; }
count_left() { mysql_in "$1" "SELECT (SELECT count(*) FROM mysql.user WHERE user LIKE 'understudy%') + (SELECT count(*) FROM information_schema.plugins WHERE plugin_name = 'clone')"; }
show_empty() { show_mysql "$1" 'SHOW DATABASES'; }
# Between applications a copy has the source's users and passwords: it is asked from the pod of the source, where the password is.
copy() {
	local host=(-h "reports-db.$other.svc")
	"$1" orders-db-0 "${@:2}"
}
