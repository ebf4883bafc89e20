"""The memory of the operator's process."""
import pathlib
import re
import time

from cluster import LOCAL, SYSTEM, apply, fail, kubectl, replication, say, wait_for

MANY = 100


def memory_of_operator():
    """Resident set by kind, and the cgroup's working set, in MiB; none where the process is not on this machine."""
    name = kubectl("get", "pods", "-l", "app.kubernetes.io/name=understudy", "-o", "jsonpath={.items[*].metadata.uid}", namespace=SYSTEM).split()
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            groups = (path / "cgroup").read_text()
            if (path / "cmdline").read_bytes().split(b"\0")[1:2] != [b"controller"] or not any(uid in groups for uid in name):
                continue
            status = dict(re.findall(r"^(\w+):\s+(\d+) kB", (path / "status").read_text(), re.M))
            line = next(line for line in groups.splitlines() if ":memory:" in line or line.startswith("0::"))
            below = line.split(":", 2)[2].lstrip("/")
            v1 = pathlib.Path("/sys/fs/cgroup/memory") / below
            group, usage, inactive = (v1, "memory.usage_in_bytes", "total_inactive_file") if v1.exists() else (
                pathlib.Path("/sys/fs/cgroup") / below, "memory.current", "inactive_file")
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            working = (int((group / usage).read_text()) - int(stat[inactive])) / 2**20
            return [int(status[key]) / 1024 for key in ("VmRSS", "RssAnon", "RssFile")] + [working]
        except (OSError, KeyError, StopIteration):
            continue
    return None


def measure_memory(restart):
    if restart:
        say("memory: a fresh start, then idle for 30 s")
        kubectl("rollout", "restart", "deployment/understudy", namespace=SYSTEM)
        kubectl("rollout", "status", "deployment/understudy", "--timeout=60s", namespace=SYSTEM)
        wait_for("one instance", lambda: len(kubectl("get", "pods", "-o", "name", namespace=SYSTEM).split()) == 1)
        time.sleep(30)
    idle = memory_of_operator()
    if idle is None and LOCAL:
        fail("the operator's process is not found")
    if idle is None:
        say("memory: not measured, since the operator's process is on another machine")
        return None
    say(f"memory: {MANY} resources")
    apply(*[replication(f"many-{n}", "PostgreSQL", f"missing-{n}", "1Gi") for n in range(MANY)])
    phases = ("get", "dbrep", "-o", "jsonpath={range .items[*]}{.status.phase}{'\\n'}{end}")
    wait_for("all are looked at", lambda: kubectl(*phases).split().count("Blocked") == MANY)
    time.sleep(20)
    many = memory_of_operator()
    kubectl("delete", "dbrep", "--all", "--timeout=60s")
    return idle, many
