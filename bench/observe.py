"""What can be seen of a run from outside: changes of objects, log lines, requests, each with its time."""
import datetime
import json
import os
import pathlib
import queue
import re
import subprocess
import threading
import time

from cluster import LOCAL, SPACE, SYSTEM, fail, json_lines, kubectl, stamp

ACCOUNT = f"system:serviceaccount:{SYSTEM}:understudy"
CORE, APPS = f"/api/v1/namespaces/{SPACE}", f"/apis/understudy.dev/v1alpha1/namespaces/{SPACE}"


class Watch:
    """Changes of one kind of object in the namespace, each with the time at which it was seen here."""

    def __init__(self, path, sink):
        # What exists already is not told.
        since = json.loads(kubectl("get", "--raw", f"{path}?limit=1"))["metadata"]["resourceVersion"]
        self.process = subprocess.Popen(["kubectl", "get", "--raw", f"{path}?watch=1&resourceVersion={since}"], stdout=subprocess.PIPE, text=True)
        self.sink = sink
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.sink.put((time.time(), json.loads(line)))

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Observed:
    """Everything that can be seen of one run, with times."""

    def __enter__(self):
        self.seen, self.events = [], queue.Queue()
        paths = [f"{CORE}/pods", f"/apis/batch/v1/namespaces/{SPACE}/jobs", f"{APPS}/databasereplications"]
        self.watches = [Watch(path, self.events) for path in paths]
        time.sleep(0.7)
        self.audit = audit_size()
        self.begun = time.time()
        return self

    def __exit__(self, *_):
        for watch in self.watches:
            watch.stop()

    def until(self, what, condition, seconds):
        """The time at which an object was first seen for which the condition holds."""
        at = self.first(condition)
        limit = time.time() + seconds
        while at is None and time.time() < limit:
            try:
                seen = self.events.get(timeout=1)
            except queue.Empty:
                continue
            self.seen.append(seen)
            if condition(seen[1]["object"]):
                at = seen[0]
        return at or fail(f"after {seconds} s still not: {what}\n" + kubectl("describe", "dbrep") + kubectl("get", "pods"))

    def first(self, condition):
        """The same among what was seen already."""
        return next((at for at, event in self.seen if condition(event["object"])), None)

    def ran(self, pattern, container):
        """From when until when a container ran, by the node's clock, which counts whole seconds; the pod's name is matched by the pattern."""
        for _, event in self.seen:
            thing = event["object"]
            if thing["kind"] == "Pod" and re.fullmatch(pattern, thing["metadata"]["name"]):
                for entry in thing.get("status", {}).get("containerStatuses", []):
                    if entry["name"] == container and "terminated" in entry["state"]:
                        ended = entry["state"]["terminated"]
                        return stamp(ended["startedAt"]), stamp(ended["finishedAt"]) + 1
        return fail(f"container {container} of {pattern} was not seen to end")

    def address(self, name):
        """The address of a pod that was seen to run."""
        return next(event["object"]["status"]["podIP"] for _, event in self.seen if in_phase(name, "Running")(event["object"]))


def is_ready(name):
    def condition(thing):
        status = thing.get("status", {})
        return (thing["kind"] == "DatabaseReplication" and thing["metadata"]["name"] == name
                and status.get("observedGeneration") == thing["metadata"]["generation"]
                and any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", [])))
    return condition


def in_phase(pattern, phase):
    """A pod whose name is matched by the pattern, in this phase."""
    return lambda thing: thing["kind"] == "Pod" and re.fullmatch(pattern, thing["metadata"]["name"]) and thing.get("status", {}).get("phase") == phase


def is_pod_ready(name):
    return lambda thing: (thing["kind"] == "Pod" and thing["metadata"]["name"] == name
                          and any(c["type"] == "Ready" and c["status"] == "True" for c in thing.get("status", {}).get("conditions", [])))


# Where the time goes

def trace(run, ready):
    """Everything seen, as (time, text), in order."""
    told = [(run.begun, "kubectl apply begins")]
    known = set()
    for at, event in run.seen:
        thing = event["object"]
        name, status = thing["metadata"]["name"], thing.get("status", {})
        words = []
        if thing["kind"] == "Pod":
            words.append(f"pod {name} created")
            words += [f"pod {name} {c['type']}" for c in status.get("conditions", []) if c["status"] == "True"]
            for entry in status.get("initContainerStatuses", []) + status.get("containerStatuses", []):
                words += [f"pod {name}: {entry['name']} {word}" for word in entry["state"] if word != "waiting"]
            if status.get("phase") in ("Succeeded", "Failed"):
                words.append(f"pod {name} {status['phase']}")
        elif thing["kind"] == "Job":
            words.append(f"job {name} created")
            words += [f"job {name} {c['type']}" for c in status.get("conditions", []) if c["status"] == "True"]
        else:
            words += [f"{status.get('phase')}: {c['message']}" for c in status.get("conditions", []) if c["type"] == "Ready"]
        for word in words:
            if word not in known:
                known.add(word)
                told.append((at, word))
    since = datetime.datetime.fromtimestamp(run.begun - 1, datetime.timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
    for line in json_lines(kubectl("logs", "deployment/understudy", f"--since-time={since}", namespace=SYSTEM)):
        if line.get("namespace") == SPACE:
            told.append((stamp(line["timestamp"]), f"operator: {line['message']}: {line.get('step', line.get('error', ''))}"))
    for kind in ("backup", "restore"):
        text = kubectl("logs", "--selector", f"understudy.dev/component={kind}", "--container", kind, "--tail=-1", check=False)
        for line in json_lines(text):
            if "message" not in line:
                continue
            told.append((stamp(line["timestamp"]), f"agent {kind}: {line['message']} {line.get('tool', '')}".strip()))
    return [(at, word) for at, word in sorted(told) if run.begun <= at <= ready + 0.01]


def breakdown(lines, parts, begun, ready):
    """How long each part took; a part that left no trace is counted with the next. A part ends with the first line that matches its pattern."""
    found, last = [], begun
    for name, pattern in parts:
        at = ready if pattern is None else next((at for at, word in lines if at >= last and re.match(pattern, word)), None)
        found.append((name, None if at is None else at - last))
        last = at or last
    return found


# Requests

def audit_file():
    state = os.environ.get("UNDERSTUDY_CLUSTER_STATE")
    return pathlib.Path(state) / "audit.log" if LOCAL and state else None


def audit_size():
    return audit_file().stat().st_size if audit_file() else None


def requests(run, ready):
    """What the operator asked of the API server for this namespace, and its Lease, by verb and kind."""
    if run.audit is None:
        return None
    time.sleep(1)
    counted = {}
    with audit_file().open("rb") as log:
        log.seek(run.audit)
        for line in log:
            # Faster than to parse all of them.
            if ACCOUNT.encode() not in line:
                continue
            entry = json.loads(line)
            about, at = entry.get("objectRef", {}), stamp(entry["requestReceivedTimestamp"])
            lease = about.get("resource") == "leases"
            if entry["user"]["username"] != ACCOUNT or not run.begun <= at <= ready or not (lease or about.get("namespace") == SPACE):
                continue
            kind = about["resource"] + ("/" + about["subresource"] if about.get("subresource") else "")
            key = ("lease" if lease else entry["verb"], kind)
            counted[key] = counted.get(key, 0) + 1
    return counted
