"""MongoDB: the source becomes a replica set, and each member that joins fetches the data by its own initial sync.

It is meant for the image of the local cluster: its mongo-command stands in for the shell.
"""
import base64
import json
import secrets
import time

from cluster import SPACE, apply, kubectl, password, service, shell, wait_for
from engines import base
from observe import in_phase

CLIENT = 'MONGO_URI="mongodb://root:$MONGO_PASSWORD@127.0.0.1:27017/?directConnection=true" exec mongo-command -db "$0"'
# Its file must be for the server's eyes alone, which no mounted Secret is.
SET = 'install -o 999 -m 400 /etc/bench/keyfile /tmp/keyfile && exec docker-entrypoint.sh mongod --replSet hand --keyFile /tmp/keyfile "$@"'
DUMP = '''mongodump --host "$0" --username root --password "$MONGO_PASSWORD" --authenticationDatabase admin --oplog --out /hand-backup/dump &&
	sync -f /hand-backup'''
# Rows that do not compress, repeated at a greater distance than compression looks back.
ROW, ROWS, BATCH, COPIES = 4000, 2500, 100, 10
MEMBERS = ["hand-member-1", "hand-member-2"]


def command(pod, *documents, database="admin", check=True):
    """The answers. The commands come through a pipe, since some hold a password."""
    lines = shell(pod, CLIENT, database, stdin="\n".join(json.dumps(document) for document in documents), check=check).splitlines()
    return [json.loads(line) for line in lines]


def host(name):
    return f"{name}.{SPACE}.svc.cluster.local:27017"


class Engine(base.Engine):
    product = "MongoDB"
    image = "mongo:6.0"
    port = 27017
    mount = "/data/db"
    # By name: while the image initialises its data, a server answers on 127.0.0.1 only.
    ready = ["sh", "-c", "mongo-command -uri \"mongodb://$HOSTNAME:27017/?directConnection=true\" '{\"ping\": 1}'"]
    # An odd number of voters, together with the source.
    replicas = len(MEMBERS)
    parts = [
        ("the source restarts and is initiated; backup Job made", r"operator: step done: apply Job .*-backup-"),
        ("mongodump --oplog, verified; the first member's volume", r"operator: step done: apply StatefulSet .*-replica-1"),
        ("the first member: starts, initial sync, proof", r"operator: step done: apply StatefulSet .*-replica-2"),
        ("the second likewise", r"operator: step done: source: give member 2 a vote"),
        ("votes, variables, Ready", None),
    ]
    writer = ('MONGO_URI="mongodb://root:$MONGO_PASSWORD@$HOST:27017/?directConnection=true" exec mongo-command -db bench',
              # The same of a stand-alone server and of a replica set's primary, which without being told would wait for a majority.
              '{"insert": "marks", "documents": [{"at": 1}], "writeConcern": {"w": 1, "j": true}}', '*"ok":*')

    def environment(self):
        return [{"name": "MONGO_INITDB_ROOT_USERNAME", "value": "root"}, password("MONGO_INITDB_ROOT_PASSWORD"), password("MONGO_PASSWORD")]

    def client_env(self):
        return [password("MONGO_PASSWORD")]

    def files(self):
        return {"keyfile": base64.b64encode(secrets.token_bytes(96)).decode()}

    def prepare(self, pod):
        pass

    def fill(self, pod, megabytes):
        documents = ({"payload": base64.b64encode(secrets.token_bytes(ROW * 3 // 4)).decode()} for _ in range(ROWS))
        inserts = [{"insert": "rows", "documents": [next(documents) for _ in range(BATCH)]} for _ in range(ROWS // BATCH)]
        command(pod, *inserts, database="bench")
        again = [{"$unionWith": "rows"}] * (COPIES - 1)
        left = max(1, round(megabytes * 1_000_000 / (ROW * ROWS)))
        number = 0
        while left > 0:
            stages = [*again[:left - 1], {"$project": {"_id": 0}}, {"$out": f"filler_{number}"}]
            command(pod, {"aggregate": "rows", "pipeline": stages, "cursor": {}}, database="bench")
            number, left = number + 1, left - COPIES

    def size(self, pod):
        command(pod, {"fsync": 1})
        found = command(pod, {"dbStats": 1}, database="bench")[0]
        return f"{round(found['dataSize'] / 1e6)} MB in {found['objects']} documents"

    def copying(self, run):
        """From the first member's start until the last one has all of it, and serves."""
        return run.first(in_phase(".*-replica-.*", "Running")), run.seen[-1][0]

    def by_hand(self, of, size, hand):
        source = f"{of}-0"
        member = ["sh", "-c", SET, "mongod"]
        hand.claims_for("hand-backup", *MEMBERS)
        for name in MEMBERS:
            apply(service(name, self.port))
            hand.start(name, [*member, "--dbpath", f"/{name}"], [name], self.client_env(), labels={"app": name}, files=True)
        self.restart(of, {"command": member[:3], "args": ["mongod"]})
        command(source, {"replSetInitiate": {"_id": "hand", "members": [{"_id": 0, "host": host(of)}]}})
        wait_for("the source is primary", lambda: command(source, {"hello": 1})[0].get("isWritablePrimary"))
        hand.is_now("stopped, started with --replSet, initiated, primary", time.time())
        hand.start("hand-dump", ["sh", "-c", DUMP, of], ["hand-backup"], self.client_env())
        hand.ended("hand-dump", "mongodump --oplog to a volume, its pod ended")
        begun = time.time()
        for number, name in enumerate(MEMBERS):
            hand.run.until(f"{name} runs", in_phase(name, "Running"), 60)
            wait_for(f"{name} answers", lambda: shell(name, "mongo-command '{\"ping\": 1}'", check=False))
            self.reconfigure(source, lambda members: members + [{"_id": number + 1, "host": host(name), "votes": 0, "priority": 0}])
        hand.is_now("members added without a vote", time.time())
        wait_for("members are SECONDARY", lambda: self.states(source).count("SECONDARY") == len(MEMBERS), 300)
        hand.copying = (begun, time.time())
        hand.is_now("initial sync, SECONDARY", time.time())
        self.vote(source, 1)
        mark = {"insert": "marks", "documents": [{"at": 2}], "writeConcern": {"w": len(MEMBERS) + 1, "wtimeout": 25000}}
        if "writeConcernError" in command(source, mark, database="bench")[0]:
            raise RuntimeError("what was written to the source has not arrived")
        hand.is_now("votes given; what is written arrives at all", time.time())
        # Before their pods end: without them there would be no majority.
        self.vote(source, 0)
        self.reconfigure(source, lambda members: [m for m in members if m["_id"] == 0])

    def vote(self, source, votes):
        """One at a time: the server refuses to change more than one vote at once."""
        for number in range(1, len(MEMBERS) + 1):
            self.reconfigure(source, lambda members: [m | {"votes": votes} if m["_id"] == number else m for m in members])

    def states(self, source):
        return [member["stateStr"] for member in command(source, {"replSetGetStatus": 1})[0]["members"]]

    def reconfigure(self, source, change):
        config = command(source, {"replSetGetConfig": 1})[0]["config"]
        command(source, {"replSetReconfig": config | {"version": config["version"] + 1, "members": change(config["members"])}})

    def restart(self, of, changed):
        """The source with another command; returns when it answers again."""
        uid = ("get", "pod", f"{of}-0", "--ignore-not-found", "-o", "jsonpath={.metadata.uid}")
        before = kubectl(*uid)
        container = {"name": "database"} | changed
        kubectl("patch", "statefulset", of, "-p", json.dumps({"spec": {"template": {"spec": {"containers": [container]}}}}))
        wait_for("the source is another pod", lambda: kubectl(*uid) not in ("", before))
        wait_for("the source answers", lambda: command(f"{of}-0", {"ping": 1}, check=False))

    def undo(self, of):
        """Stand-alone again, and what a replica set leaves is dropped, for which even root needs a role."""
        source, role = f"{of}-0", "hand"
        self.restart(of, {"command": None, "args": []})
        privilege = {"resource": {"db": "local", "collection": ""}, "actions": ["dropDatabase", "dropCollection"]}
        command(source, {"createRole": role, "privileges": [privilege], "roles": []}, {"grantRolesToUser": "root", "roles": [role]})
        command(source, {"dropDatabase": 1}, database="local")
        command(source, {"revokeRolesFromUser": "root", "roles": [role]}, {"dropRole": role})
        kubectl("delete", "service", *MEMBERS)
