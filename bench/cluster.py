"""What the measurements need of the cluster that kubectl talks to."""
import base64
import datetime
import json
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SPACE = "understudy-bench"
SYSTEM = "understudy-system"
LOCAL = os.environ.get("CLUSTER", "local") != "current"
PASSWORD = "only-for-this-benchmark"


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def fail(text):
    sys.exit(f"bench: {text}")


def kubectl(*words, stdin=None, namespace=SPACE, check=True):
    done = subprocess.run(["kubectl", "--namespace", namespace, *words], input=stdin, capture_output=True, text=True)
    if check and done.returncode:
        fail(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def apply(*objects):
    kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def shell(pod, script, *arguments, stdin=None, check=True):
    """What a script prints that a shell runs in the pod's first container."""
    interactive = () if stdin is None else ("-i",)
    return kubectl("exec", *interactive, pod, "--", "sh", "-c", script, *arguments, stdin=stdin, check=check).strip()


def wait_for(what, condition, seconds=120):
    limit = time.time() + seconds
    while not condition():
        if time.time() > limit:
            fail(f"after {seconds} s still not: {what}")
        time.sleep(0.3)


def settle():
    """What was written before is on the disk: its flushing is not measured with what follows."""
    wait_for("pods of the run before are gone", lambda: not kubectl("get", "pods", "-l", "!app", "-o", "name").strip())
    os.sync()
    time.sleep(1)


def stamp(text):
    return datetime.datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text).replace("Z", "+00:00")).timestamp()


def json_lines(text):
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


# Objects

def meta(name):
    return {"name": name, "namespace": SPACE}


def secret(files):
    data = {"password": PASSWORD} | files
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta("source"),
            "data": {name: base64.b64encode(text.encode()).decode() for name, text in data.items()}}


def password(variable):
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": "source", "key": "password"}}}


def claim(name, size):
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta(name),
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}}


def service(name, port):
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta(name),
            "spec": {"selector": {"app": name}, "ports": [{"port": port}], "publishNotReadyAddresses": True}}


def pod(name, image, command, claims, env=(), labels=None, ready=None, files=False):
    """One container that is run once, with each claim mounted below / by its own name, and with the Secret in /etc/bench if it needs its files."""
    volumes = [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in claims]
    container = {"name": "hand", "image": image, "command": command, "env": list(env),
                 "volumeMounts": [{"name": name, "mountPath": f"/{name}"} for name in claims]}
    if files:
        volumes.append({"name": "files", "secret": {"secretName": "source"}})
        container["volumeMounts"].append({"name": "files", "mountPath": "/etc/bench"})
    if ready:
        container["readinessProbe"] = {"exec": {"command": ready}, "periodSeconds": 1}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta(name) | {"labels": labels or {}},
            "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 2, "volumes": volumes, "containers": [container],
                     "securityContext": {"runAsUser": 999, "runAsGroup": 999, "fsGroup": 999}}}


def replication(name, engine, of, size, replicas=1):
    return {"apiVersion": "understudy.dev/v1alpha1", "kind": "DatabaseReplication", "metadata": meta(name),
            "spec": {"engine": engine, "replicas": replicas, "deletionPolicy": "Delete", "backup": {"volume": {"size": size}},
                     "source": {"statefulSetRef": {"name": of}, "credentials": {"secretRef": {"name": "source"}}},
                     "environment": {"configMaps": [{"name": "variables"}]}}}


def remove_namespace():
    if kubectl("get", "namespace", SPACE, "--ignore-not-found", "-o", "name", namespace="default").strip():
        kubectl("delete", "dbrep", "--all", "--timeout=120s")
        kubectl("delete", "namespace", SPACE, "--timeout=120s", namespace="default")
