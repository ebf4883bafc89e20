#!/usr/bin/env bash
# Holds the local cluster to its promises. With --down it is also taken away, and nothing of it may be left.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
state=${UNDERSTUDY_STATE:-/var/lib/understudy-local} run=/run/understudy namespace=local-cluster-test
passed=0 failed=0

if [ "${CLUSTER:-local}" = current ]; then
	echo 'CLUSTER=current: the local cluster is not tested'
	exit 0
fi

check() {
	local name=$1 output began=$SECONDS
	shift
	if output=$("$@" 2>&1); then
		passed=$((passed + 1))
		echo "ok      $name ($((SECONDS - began)) s)"
	else
		failed=$((failed + 1))
		printf 'FAILED  %s\n%s\n' "$name" "$output"
	fi
}

cluster() { "$here/cluster" "$@"; }
k() { cluster enter kubectl --namespace "$namespace" "$@"; }
pids() { (cd "$run/pids" && grep -H . -- * | grep -v '^[^:]*\.command:'); }

up_twice_is_up() {
	local before
	cluster up
	before=$(pids)
	cluster up
	[ "$(pids)" = "$before" ]
}

killed_parts_are_repaired() {
	local part pid rest before
	before=$(pids | grep -v -e ^kubelet: -e ^kube-scheduler:)
	for part in kubelet kube-scheduler; do
		read -r pid rest <"$run/pids/$part"
		kill -KILL "$pid"
	done
	cluster up
	cluster status
	[ "$(pids | grep -v -e ^kubelet: -e ^kube-scheduler:)" = "$before" ]
}

enter_is_transparent() {
	local output code=0
	cd /usr
	# shellcheck disable=SC2016
	output=$(WORD='a  b' cluster enter sh -c 'printf "%s|%s|%s|%s" "$PWD" "$WORD" "$1" "$UNDERSTUDY_NETNS"; exit 7' sh "x 'y'") || code=$?
	[ "$code" = 7 ] && [ "$output" = "/usr|a  b|x 'y'|1" ]
}

outside_reaches_nothing() {
	local pod_range service_range range
	read -r pod_range service_range <"$run/network"
	for range in "$pod_range" "$service_range"; do
		! ip -4 route get "${range%.*}.9" || return 1
	done
	! cluster enter ip -4 route show default | grep .
}

write_manifest() {
	cat <<-'YAML'
		apiVersion: v1
		kind: Secret
		metadata: {name: database}
		stringData: {password: only-for-this-test}
		---
		apiVersion: v1
		kind: Service
		metadata: {name: database}
		spec: {selector: {app: database}, ports: [{port: 5432}]}
		---
		apiVersion: apps/v1
		kind: StatefulSet
		metadata: {name: database}
		spec:
		  serviceName: database
		  selector: {matchLabels: {app: database}}
		  template:
		    metadata: {labels: {app: database}}
		    spec:
		      terminationGracePeriodSeconds: 5
		      containers:
		      - name: postgres
		        image: postgres:17
		        env:
		        - {name: POSTGRES_PASSWORD, valueFrom: {secretKeyRef: {name: database, key: password}}}
		        - {name: PGDATA, value: /var/lib/postgresql/data/pgdata}
		        volumeMounts: [{name: data, mountPath: /var/lib/postgresql/data}]
		        readinessProbe: {exec: {command: [pg_isready, -q, -h, 127.0.0.1]}, periodSeconds: 1}
		  volumeClaimTemplates:
		  - metadata: {name: data}
		    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 100Mi}}}
		---
		apiVersion: v1
		kind: Pod
		metadata: {name: client}
		spec:
		  terminationGracePeriodSeconds: 0
		  containers:
		  - name: client
		    image: postgres:17
		    command: [sleep, infinity]
		    env:
		    - {name: PGPASSWORD, valueFrom: {secretKeyRef: {name: database, key: password}}}
	YAML
}

database_starts_on_a_claim() {
	cluster enter kubectl create namespace "$namespace"
	write_manifest | k apply -f -
	k wait --for=jsonpath='{.status.readyReplicas}'=1 statefulset/database --timeout=90s
	k wait --for=condition=Ready pod/client --timeout=60s
	[ "$(k get pvc data-database-0 -o 'jsonpath={.status.phase}')" = Bound ]
}

# The address of the kubelet's DNS, the service's address and the password must all be right for this one.
pod_reaches_a_service_by_name() {
	[ "$(k exec client -- psql -h "database.$namespace.svc.cluster.local" -U postgres -At -c 'SELECT 6 * 7')" = 42 ] &&
		[ "$(k exec client -- psql -h database -U postgres -At -c 'SELECT 6 * 7')" = 42 ]
}

data_outlives_the_pod() {
	k exec database-0 -- psql -U postgres -c 'CREATE TABLE kept AS SELECT 1'
	k delete pod database-0
	k wait --for=condition=Ready pod/database-0 --timeout=60s
	[ "$(k exec database-0 -- psql -U postgres -At -c 'TABLE kept')" = 1 ]
}

requests_are_audited() {
	grep -q '"username":"admin"' "$state/audit.log" && ! grep -q only-for-this-test "$state/audit.log"
}

volume_goes_with_its_claim() {
	local i
	cluster enter kubectl delete namespace "$namespace" --timeout=60s
	for ((i = 0; i < 60; i++)); do
		[ -n "$(ls "$state/volumes")" ] || return 0
		compgen -G "$state/volumes/*_${namespace}_*" >/dev/null || return 0
		sleep 0.5
	done
	return 1
}

image_is_loaded_once() {
	local dir began=$SECONDS log
	dir=$(mktemp -d)
	printf 'int main(void) { return 0; }\n' | cc -static -o "$dir/static" -x c -
	log=$(cluster load "$dir/static" local-cluster-test 2>&1 && cluster load "$dir/static" local-cluster-test 2>&1)
	cp "$(readlink -f /bin/sh)" "$dir/dynamic"
	! cluster load "$dir/dynamic" local-cluster-test || return 1
	rm -r "$dir"
	printf '%s' "$log" | grep -q docker.io/library/understudy:local-cluster-test && [ $((SECONDS - began)) -lt 15 ]
}

nothing_is_left() {
	local left='' pod_range service_range dir
	read -r pod_range service_range <"$run/network"
	cluster down
	# The patterns come from a file, or grep would find itself.
	left+=$(grep -lsF -f <(printf '%s\n' "$state/" "$run/") /proc/[0-9]*/cmdline || true)
	left+=$(grep -F -e " $state" -e " $run" -e /run/netns/understudy /proc/self/mountinfo || true)
	left+=$(ip -o link | grep -e node0 -e pods0 || true)
	left+=$(ip -4 route | grep -e "$pod_range" -e "$service_range" || true)
	left+=$(find /sys/fs/cgroup -maxdepth 2 -name understudy)
	for dir in "$state" "$run" /run/netns/understudy; do
		[ ! -e "$dir" ] || left+=" $dir"
	done
	[ -z "$left" ] || {
		printf 'left: %s\n' "$left"
		return 1
	}
}

check 'up twice is up' up_twice_is_up
check 'what was killed is started again, and nothing else' killed_parts_are_repaired
check 'enter passes directory, environment, arguments and exit code' enter_is_transparent
check 'cluster addresses are unreachable outside, and the outside from inside' outside_reaches_nothing
check 'a StatefulSet of PostgreSQL starts on a bound claim' database_starts_on_a_claim
check 'a pod reaches a service by name' pod_reaches_a_service_by_name
check 'data outlives its pod' data_outlives_the_pod
check 'requests are audited without their bodies' requests_are_audited
check 'a volume goes with its claim' volume_goes_with_its_claim
check 'an image is loaded once, and a dynamic binary is refused' image_is_loaded_once
if [ "${1:-}" = --down ]; then
	check 'down leaves nothing' nothing_is_left
	check 'down twice is down' cluster down
fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
