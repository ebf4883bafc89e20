"""What the frame asks of an engine, and what they have in common."""
from abc import ABC, abstractmethod

from cluster import apply, claim, fail, kubectl, meta, pod, service
from observe import in_phase


class Engine(ABC):
    """A database, how it is filled, and how an administrator gives it a replica by hand."""

    # As in the resource's field `engine`; also the section of docs/benchmarks.md.
    product: str
    image: str
    port: int
    # Where the data directory is mounted.
    mount: str
    # What the source's readiness probe runs.
    ready: list
    # What is measured when nothing else is said.
    usual = ["large"]
    # How often, when nothing else is said.
    runs = 3
    replicas = 1
    # False: this version of the operator is not measured, only what is done by hand.
    supported = True
    # Rows of the result that have a goal: "empty", "large", "ratio", "requests", "latency", "other".
    goals = {"empty": "12 s, at most 25 s", "ratio": "1.1, at most 1.3", "latency": "1.2"}
    # Where the time goes: each part and a pattern that matches the line of the trace which ends it.
    parts: list
    # The client of latency.Writer: a command that reads statements from its standard input, one a line; the statement; a pattern for its answer.
    writer: tuple
    # The same of a client that only reads; none where a database of another application is not made a replica.
    reader: tuple = None

    @abstractmethod
    def environment(self):
        """Variables of the source's container."""

    def arguments(self):
        """Arguments of the source's container."""
        return []

    def files(self):
        """What else stands in the Secret, by name; the source finds it below /etc/bench."""
        return {}

    @abstractmethod
    def client_env(self):
        """Variables by which the clients of this engine find the password."""

    def source(self, name, size):
        """The source, as a StatefulSet with the official image's defaults."""
        container = {"name": "database", "image": self.image, "args": self.arguments(), "env": self.environment(), "ports": [{"containerPort": self.port}],
                     "volumeMounts": [{"name": "data", "mountPath": self.mount}, {"name": "files", "mountPath": "/etc/bench"}],
                     "readinessProbe": {"exec": {"command": self.ready}, "periodSeconds": 1, "timeoutSeconds": 3}}
        labels = {"app": name}
        files = {"name": "files", "secret": {"secretName": "source", "items": [{"key": name, "path": name} for name in self.files()]}}
        return [service(name, self.port),
                {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta(name),
                 "spec": {"serviceName": name, "replicas": 1, "selector": {"matchLabels": labels}, "volumeClaimTemplates": [claim("data", size)],
                          "template": {"metadata": {"labels": labels},
                                       "spec": {"terminationGracePeriodSeconds": 30, "containers": [container], "volumes": [files]}}}}]

    @abstractmethod
    def prepare(self, pod):
        """What the writer writes to is there."""

    @abstractmethod
    def fill(self, pod, megabytes):
        """About so much data."""

    @abstractmethod
    def size(self, pod):
        """How much it is, in words. What was written is on the disk, as far as the server can be told so."""

    @abstractmethod
    def by_hand(self, of, size, hand):
        """The steps by hand, each told to `hand`."""

    @abstractmethod
    def undo(self, of):
        """The source as it was before, pods and volumes apart."""

    def by_another_way(self, of, size, hand):
        """A third contender, where there is one: as `by_hand`."""
        raise NotImplementedError

    another_way = None

    def copying(self, run):
        """From when until when an observed run of Understudy copied from the source."""
        return run.ran(".*-backup-.*", "backup")


class Hand:
    """The steps by hand of one run: a plain pod for each, applied when the one before has ended."""

    def __init__(self, run, image, size):
        self.run, self.image, self.volume = run, image, size
        self.done, self.pods, self.claims = [], [], []
        self.copying = None

    def claims_for(self, *names):
        self.claims += names
        apply(*[claim(name, self.volume) for name in names])

    def start(self, name, command, claims, env=(), **more):
        self.pods.append(name)
        apply(pod(name, self.image, command, claims, env, **more))

    def ended(self, name, what, seconds=300):
        """Waits for the end of a pod, which must be a good one."""
        def over(thing):
            return in_phase(name, "Succeeded")(thing) or in_phase(name, "Failed")(thing)
        at = self.run.until(f"{name} has ended", over, seconds)
        if self.run.first(in_phase(name, "Failed")):
            fail(f"{name} failed:\n" + kubectl("logs", name, check=False))
        self.done.append((what, at))

    def copied_from_source(self, name, what, seconds=300):
        """The same for the one that copies from the source."""
        self.ended(name, what, seconds)
        self.copying = self.run.ran(name, "hand")

    def is_now(self, what, at):
        self.done.append((what, at))

    def clean(self):
        kubectl("delete", "pod", *self.pods, "--timeout=60s")
        kubectl("delete", "pvc", *self.claims, "--timeout=60s")
