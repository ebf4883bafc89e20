# shellcheck shell=bash
# What deploy/demo needs to know of MongoDB. Its members copy by themselves, two of them, and the source restarts once: that takes longer than elsewhere.
# shellcheck disable=SC2034,SC2154 # read and set by deploy/demo
product=MongoDB prefix=MONGODB container=mongodb read_only='not primary' what_is_left='argument, configuration of a replica set, or role'
replicas=2 limit=180

# Where the image has no mongosh, as the local cluster's, a program runs one command.
# shellcheck disable=SC2016 # expanded in the pod, where the password is
client='export MONGO_URI="mongodb://$MONGO_INITDB_ROOT_USERNAME:$MONGO_INITDB_ROOT_PASSWORD@127.0.0.1/?authSource=admin&directConnection=true"
	command -v mongosh >/dev/null || exec mongo-command -db "$1" "$2"
	exec mongosh --nodb --quiet --eval "print(EJSON.stringify(connect(process.env.MONGO_URI).getSiblingDB(\"$1\").runCommand($2)))"'

# mongo_in POD DATABASE COMMAND: prints the answer as one line of JSON.
mongo_in() { in_pod "$1" bash -c "$client" mongodb "$2" "$3"; }

# The same, as a person would type it in mongosh in that pod.
show_mongo() {
	printf '%s%s> db.getSiblingDB("%s").runCommand(%s)%s\n' "$dim" "$@" "$plain"
	mongo_in "$@"
}

# number NAME: the whole number that an answer has under it.
number() { sed -nE "s/.*\"$1\":([0-9]+).*/\1/p"; }

# chosen NAME…: what an answer has under these names, in its order.
chosen() {
	local IFS='|'
	grep -oE "\"($*)\":(\"[^\"]*\"|[0-9a-z]+)"
}

count_orders() { mongo_in "$1" shop '{"count": "orders"}' | number n; }
show_orders() { show_mongo "$1" shop '{"count": "orders"}' | sed -E 's/("n":[0-9]+).*/\1}/'; }
place_order() {
	local id
	id=$(now)
	mongo_in "$1" shop "{\"insert\": \"orders\", \"documents\": [{\"_id\": $id, \"pieces\": 1}]}" >/dev/null
	printf '%s' "$id"
}
has_order() { [ "$(mongo_in "$1" shop "{\"count\": \"orders\", \"query\": {\"_id\": $2}}" | number n)" = 1 ]; }
show_role() { say "$1: $(count_orders "$1") orders, $(mongo_in "$1" admin '{"hello": 1}' | chosen isWritablePrimary secondary | paste -sd ' ')"; }
show_link() { mongo_in orders-db-0 admin '{"replSetGetStatus": 1}' | chosen name stateStr | paste -d ' ' - -; }
show_write() { show_mongo "$1" shop '{"delete": "orders", "deletes": [{"q": {}, "limit": 0}]}'; }

# What can't be asked counts as left.
count_left() {
	local roles configuration arguments left=0
	roles=$(mongo_in "$1" admin '{"rolesInfo": 1}') || true
	[[ $roles = *'"roles":'* && $roles != *understudy* ]] || left=$((left + 1))
	configuration=$(mongo_in "$1" local '{"count": "system.replset"}' | number n) || true
	[ "$configuration" = 0 ] || left=$((left + 1))
	arguments=$(k get statefulset orders-db -o 'jsonpath={.spec.template.spec.containers[*].args}')
	[[ $arguments != *understudy* ]] || left=$((left + 1))
	printf '%s' "$left"
}
