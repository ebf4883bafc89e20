"""The result as Markdown, and its place in docs/benchmarks.md."""
import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess

from cluster import LOCAL, ROOT, fail, kubectl, say
from latency import p99
from memory import MANY

PAGE = ROOT / "docs" / "benchmarks.md"


def machine(load):
    cores = len(os.sched_getaffinity(0))
    info = pathlib.Path("/proc/meminfo").read_text()
    memory = round(int(re.search(r"MemTotal:\s+(\d+)", info)[1]) / 2**20)
    model = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    state = os.environ.get("UNDERSTUDY_CLUSTER_STATE", "/")
    found = subprocess.run(["findmnt", "-no", "FSTYPE,SOURCE", "-T", state], capture_output=True, text=True).stdout.split()
    device = os.path.basename(found[1]) if len(found) > 1 else "unknown"
    disk = {"v": "a virtual disk", "n": "NVMe", "s": "a SCSI disk"}.get(device[:1], device)
    kernel = re.match(r"[\d.]+", platform.release())[0].rstrip(".")
    server = json.loads(kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
    kind = "the local cluster (`deploy/local`), one node" if LOCAL else "a cluster of its own; storage as its default class gives it"
    return [f"{datetime.date.today().isoformat()}: {cores} cores ({model[1].strip() if model else platform.machine()}), {memory} GiB of memory, "
            f"Linux {kernel}, {found[0] if found else 'unknown'} on {disk}; Kubernetes {server}, {kind}. Load average of the five minutes before: {load:.1f}."]


def table(head, rows):
    """A Markdown table that is readable as it stands."""
    rows = [[str(cell) for cell in row] for row in [head, *rows]]
    width = [max(len(row[n]) for row in rows) for n in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width[n]) for n, cell in enumerate(row)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in width) + "|", *lines[1:], ""]


def one(seconds):
    return f"{seconds:.1f} s"


def each(numbers, text):
    """The cells of a row: the median, and each."""
    return [text(statistics.median(numbers)), ", ".join(text(n) for n in numbers)]


def middle(runs):
    """The median of each part over several runs."""
    result = []
    for n, (name, _) in enumerate(runs[0]):
        known = [parts[n][1] for parts in runs if parts[n][1] is not None]
        result.append((name, one(statistics.median(known)) if known else "in the next"))
    return result


def asked_by(runs):
    """Requests of each run whose requests are known, the Lease's apart."""
    return [sum(n for key, n in run.asked.items() if key[0] != "lease") for run in runs if run.asked is not None]


def compared(engine, large):
    """Rows: the operator beside the steps by hand."""
    goals, rows = engine.goals, []
    ours, hand, other = ([run.seconds for run in runs] for runs in (large.ours, large.hand, large.other))
    if ours:
        rows.append([f"{large.size}: apply to Ready", *each(ours, one), goals.get("large", "")])
        rows.append(["the same steps by hand", *each(hand, one), ""])
        rows.append(["ratio to by hand", *each([a / b for a, b in zip(ours, hand)], "{:.2f}".format), goals["ratio"]])
    else:
        rows.append([f"{large.size}: by hand", *each(hand, one), ""])
    if other:
        rows.append([f"{engine.another_way}, by hand", *each(other, one), ""])
    if other and ours:
        rows.append([f"{engine.another_way}: times as long as apply to Ready", *each([b / statistics.median(ours) for b in other], "{:.1f}".format), goals["other"]])
    asked = asked_by(large.ours)
    if asked:
        rows.append(["API requests, apply to Ready", *each(asked, "{:.0f}".format), goals.get("requests", "")])
    return rows


def latencies(engine, large):
    """Rows: how long writes to the source took, all runs of a kind together; each ratio is to the time just before these runs."""
    rows = []
    kinds = [("Understudy", "apply to Ready", large.ours), ("by hand", "first command to caught up", large.hand), (engine.another_way, "first command to caught up", large.other)]
    for who, whole, runs in kinds:
        if not runs:
            continue
        before = [write for run in runs for write in run.before]
        base = p99(before)
        rows.append([f"{who}: before", len(before), f"{statistics.median(before) * 1000:.2f} ms", f"{base * 1000:.2f} ms", "", f"{max(before) * 1000:.1f} ms", ""])
        for what, writes, goal in [("during the copy from the source", [w for run in runs for w in run.copying], engine.goals["latency"] if who == "Understudy" else ""),
                                   (whole, [w for run in runs for w in run.during], "")]:
            rows.append([f"{who}: {what}", len(writes), f"{statistics.median(writes) * 1000:.2f} ms", f"{p99(writes) * 1000:.2f} ms", f"{p99(writes) / base:.2f}", f"{max(writes) * 1000:.1f} ms", goal])
    return rows


def report(engine, load, empty, large, memory):
    lines = machine(load) + [""]
    rows = []
    if empty:
        rows.append(["empty database: apply to Ready", *each([run.seconds for run in empty], one), engine.goals["empty"]])
    if large:
        rows += compared(engine, large)
    if memory:
        idle, many = memory
        rows.append(["memory, idle: resident set", f"{idle[0]:.1f} MiB", f"{idle[1]:.1f} own, {idle[2]:.1f} of the binary; working set {idle[3]:.1f}", "15 MiB"])
        rows.append([f"memory, {MANY} resources", f"{many[0]:.1f} MiB", f"{many[1]:.1f} own, {many[2]:.1f} of the binary; working set {many[3]:.1f}", ""])
    lines += table(["", "median", "each", "goal"], rows)
    if large:
        lines += ["Writes to the source meanwhile:", ""]
        lines += table(["", "writes", "median", "p99", "p99 to before", "longest", "goal"], latencies(engine, large))
        for title, runs in [("Where the time goes, Understudy (median of each part):", large.ours), ("By hand:", large.hand), (f"{engine.another_way}:", large.other)]:
            if runs:
                lines += [title[0].upper() + title[1:], "", *table(["part", "time"], middle([run.parts for run in runs]))]
        if asked_by(large.ours):
            lines += requested(large.ours[-1].asked)
    return "\n".join(lines).rstrip() + "\n"


def requested(asked):
    leases = sum(n for key, n in asked.items() if key[0] == "lease")
    rows = sorted(([verb, kind, n] for (verb, kind), n in asked.items() if verb != "lease"), key=lambda row: (-row[2], row))
    return [f"Requests of the last run; besides them {leases} to its Lease, which it renews whatever happens:", "", *table(["verb", "kind", "requests"], rows)]


def keep(section, text):
    """Replaces what stands in a section."""
    begin, end = f"<!-- measured, {section}: begin -->\n", f"<!-- measured, {section}: end -->\n"
    page = PAGE.read_text()
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        fail(f"{PAGE.relative_to(ROOT)} has no section for {section}")
    PAGE.write_text(before + begin + text + end + after)
    say(f"kept in {PAGE.relative_to(ROOT)}")
