"""Network namespaces of the bench: a partner, a gateway and a pod, joined by veth pairs and a bridge, without root.

It runs inside a user namespace that `enter` makes; what it sets up is gone when its last process ends.
"""

import ctypes
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

INSIDE = "DURWARD_BENCH_INSIDE"
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000

EXTERNAL = "203.0.113.1"
ROUTER = "203.0.113.254"
POD = "10.244.0.11"
CLUSTER = "10.244.0.0/16"
SOURCES = "192.0.2"  # the partner's: one address per round, so that connections are new

PARTNER_SIDE = f"""
link set lo up
address add {ROUTER}/24 dev wan
link set wan up
route add default via {EXTERNAL}
route add local {SOURCES}.0/24 dev lo
"""
GATEWAY_SIDE = f"""
link set lo up
address add {EXTERNAL}/24 dev ext1
link set ext1 up
link add br0 type bridge
address add 10.244.0.1/16 dev br0
link set br0 up
link set v1 master br0 up
route add default via {ROUTER}
"""
POD_SIDE = f"""
link set lo up
address add {POD}/16 dev eth0
link set eth0 up
route add default via 10.244.0.1
"""


def enter(more):
    """Starts the program again, with more arguments, as root of namespaces of its own; returns there."""
    if os.environ.get(INSIDE):
        return
    probe = subprocess.run(["unshare", "-Urn", "true"], capture_output=True, text=True)
    if probe.returncode != 0:
        sys.exit(f"bench: user namespaces are forbidden here: {probe.stderr.strip()}")
    os.environ[INSIDE] = "1"
    os.execvp("unshare", ["unshare", "-Urn", "--kill-child", sys.executable, *sys.argv, *more])


class Namespace:
    """A network namespace and the thread in it, which starts its processes: they end when the thread does."""

    def __init__(self):
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.path = self.run(self._make)

    @staticmethod
    def _make():
        if LIBC.unshare(CLONE_NEWNET) != 0:
            errno = ctypes.get_errno()
            raise OSError(errno, os.strerror(errno))
        return f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"

    def run(self, work):
        """The work's result; processes and sockets that it makes belong to the namespace."""
        return self.thread.submit(work).result()

    def call(self, command, text=None, env=None):
        """Runs a program to its end; raises with its complaint when it fails."""
        command = [str(word) for word in command]
        done = self.run(lambda: subprocess.run(command, input=text, capture_output=True, text=True, env=env))
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def ip(self, batch):
        return self.call(["ip", "-batch", "-"], text=batch)

    def sysctl(self, name, value):
        path = Path("/proc/sys") / name.replace(".", "/")
        self.run(lambda: path.write_text(f"{value}\n"))

    def received(self, device):
        """Packets a device has received."""
        lines = self.run(lambda: Path("/proc/thread-self/net/dev").read_text()).splitlines()
        fields = next(line.split(":", 1)[1].split() for line in lines if line.strip().startswith(f"{device}:"))
        return int(fields[1])


class Worlds:
    """partner -ext1- gateway -br0- pod; the gateway forwards and knows nothing else yet."""

    def __init__(self):
        self.partner, self.gateway, self.pod = Namespace(), Namespace(), Namespace()
        for device, peer, other in (("ext1", "wan", self.partner), ("v1", "eth0", self.pod)):
            self.gateway.ip(f"link add {device} type veth peer name {peer} netns {other.path}\n")
        self.partner.ip(PARTNER_SIDE)
        self.gateway.ip(GATEWAY_SIDE)
        self.pod.ip(POD_SIDE)
        self.gateway.sysctl("net.ipv4.ip_forward", 1)

