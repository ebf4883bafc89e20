"""How long a target is away while it becomes a replica, beside a restart of its pod."""
import json
import re
import time
from dataclasses import dataclass, field

from cluster import apply, kubectl, replication, say, wait_for
from latency import Writer
from observe import Observed, is_ready
from report import each, machine, one, table

NAME = "taken"
LIMIT = 300


@dataclass
class Taken:
    """The runs with one source: seconds for which nobody answered, and from `kubectl apply` to Ready."""
    size: str
    restart: list = field(default_factory=list)
    away: list = field(default_factory=list)
    told: list = field(default_factory=list)
    ready: list = field(default_factory=list)


def longest(reader, begun):
    """The longest time that a client waited for an answer, once it is answered again."""
    time.sleep(1)
    return max(reader.between(begun - 1, time.time() - 0.5))


def uid():
    return kubectl("get", "pod", f"{NAME}-0", "--ignore-not-found", "-o", "jsonpath={.metadata.uid}", check=False)


def restart(reader):
    """A restart of the pod by whoever deletes it."""
    begun, before = time.time(), uid()
    kubectl("delete", "pod", f"{NAME}-0", "--wait=false")
    wait_for("the target's pod is another", lambda: uid() not in ("", before))
    kubectl("wait", "--for=condition=Ready", f"pod/{NAME}-0", "--timeout=120s")
    return longest(reader, begun)


def takeover(engine, of, volume, taken):
    """A new, empty target; restarted, and made a replica of the source; then both are stand-alone again, and it is removed."""
    apply(*engine.source(NAME, volume))
    kubectl("rollout", "status", f"statefulset/{NAME}", "--timeout=120s")
    reader = Writer(engine, NAME, engine.reader)
    taken.restart.append(restart(reader))
    resource = replication(NAME, engine.product, of, volume)
    del resource["spec"]["replicas"], resource["spec"]["environment"]
    resource["spec"]["target"] = {"statefulSetRef": {"name": NAME}, "credentials": {"secretRef": {"name": "source"}}}
    with Observed() as run:
        apply(resource)
        ready = run.until(f"{NAME} is Ready", is_ready(NAME), LIMIT)
    taken.ready.append(ready - run.begun)
    taken.away.append(longest(reader, run.begun))
    taken.told.append(float(json.loads(kubectl("get", "dbrep", NAME, "-o", "json"))["status"]["disruption"]["measured"].split()[0]))
    reader.stop()
    kubectl("delete", "dbrep", NAME, "--timeout=120s")
    kubectl("delete", "statefulset,service", NAME)
    kubectl("delete", "pvc", f"data-{NAME}-0")
    wait_for("the target and its volumes are gone", lambda: not re.search(rf"\b(data-)?{NAME}-", kubectl("get", "pod,pvc", "-o", "name")))


def measure(engine, of, size, volume, runs):
    taken = Taken(size)
    for _ in range(runs):
        takeover(engine, of, volume, taken)
        say(f"{size}: away for {one(taken.away[-1])}, in a restart for {one(taken.restart[-1])}; Ready after {one(taken.ready[-1])}")
    return taken


def report(load, all_taken):
    rows = []
    for taken in all_taken:
        more = [away - restart for away, restart in zip(taken.away, taken.restart)]
        rows += [[f"{taken.size}: its pod is restarted, nobody answers for", *each(taken.restart, one), ""],
                 [f"{taken.size}: it becomes a replica, nobody answers for", *each(taken.away, one), ""],
                 [f"{taken.size}: longer than the restart", *each(more, one), "5 s"],
                 [f"{taken.size}: as status.disruption has it", *each(taken.told, one), ""],
                 [f"{taken.size}: apply to Ready", *each(taken.ready, one), ""]]
    return "\n".join(machine(load) + [""] + table(["the source", "median", "each", "goal"], rows)).rstrip() + "\n"
