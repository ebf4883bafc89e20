"""A client that writes to the source, or reads from the target, all the time, and how long each of its writes took."""
import re
import subprocess
import threading

from cluster import SPACE, apply, kubectl, meta, wait_for

# About 50 writes a second through one connection, each after the one before was answered. A write that fails is repeated, and counts
# until it is answered. To pause, it reads from a pipe that nobody writes to: no process is started for it.
SCRIPT = r"""
export LC_ALL=C
trap '' PIPE
exec {never}<> <(:)
begun=
while :; do
	coproc SERVER { eval "$CLIENT" 2>&1; } 2>/dev/null
	client=$SERVER_PID
	while begun=${begun:-$EPOCHREALTIME} && printf '%s\n' "$WRITE" >&"${SERVER[1]}"; do
		answer=
		while [[ $answer != $ANSWER ]]; do IFS= read -r answer <&"${SERVER[0]}" || break 2; done
		ended=$EPOCHREALTIME
		printf '%s %d\n' "$begun" $((${ended/./} - ${begun/./}))
		begun=
		read -rt 0.02 -u "$never"
	done 2>/dev/null
	wait "$client"
	read -rt 0.1 -u "$never"
done
"""


class Writer:
    """The client's pod, and what it has printed: when each write began, by the node's clock, and how many seconds it took."""

    def __init__(self, engine, of, client=None):
        self.name, self.writes = "writer", []
        client, write, answer = client or engine.writer
        env = [{"name": "HOST", "value": of}, {"name": "CLIENT", "value": client}, {"name": "WRITE", "value": write},
               {"name": "ANSWER", "value": answer}, *engine.client_env()]
        container = {"name": "writer", "image": engine.image, "command": ["bash", "-c", SCRIPT], "env": env}
        apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta(self.name) | {"labels": {"app": self.name}},
               "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container],
                        "securityContext": {"runAsUser": 999, "runAsGroup": 999}}})
        kubectl("wait", "--for=condition=Ready", f"pod/{self.name}", "--timeout=60s")
        self.process = subprocess.Popen(["kubectl", "-n", SPACE, "logs", "-f", self.name], stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.read, daemon=True).start()
        wait_for("the writer's writes are answered", lambda: len(self.writes) > 10, 30)

    def read(self):
        for line in self.process.stdout:
            if found := re.fullmatch(r"(\d+\.\d+) (\d+)\n", line):
                self.writes.append((float(found[1]), int(found[2]) / 1e6))

    def stop(self):
        self.process.terminate()
        self.process.wait()
        kubectl("delete", "pod", self.name, "--timeout=30s")

    def between(self, begin, end):
        """How long each write took that began in this time; the newest lines are waited for."""
        wait_for("what the writer has printed is read", lambda: self.writes[-1][0] > end, 30)
        return [took for at, took in list(self.writes) if begin <= at < end]


def p99(writes):
    """The smallest of these that 99 of 100 do not exceed."""
    return sorted(writes)[-(-99 * len(writes) // 100) - 1]
