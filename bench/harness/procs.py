"""Child processes of the bench: started pinned, measured through /proc, ended by pid.

It never looks at or ends a process it did not start.
"""

import ctypes
import os
import resource
import signal
import subprocess
import time
from dataclasses import dataclass

from harness.tools import environment

TICK = os.sysconf("SC_CLK_TCK")
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1
MISSING = 0.05  # seconds by which ticks exceed the exact figure only when threads have ended


class Placement:
    """Which CPUs the proxy, the origin and the client get; with one CPU nothing is pinned."""

    def __init__(self, workers):
        cpus = sorted(os.sched_getaffinity(0))
        self.pinned = len(cpus) > workers
        self.proxy = set(cpus[:workers]) if self.pinned else set(cpus)
        rest = cpus[workers:] if self.pinned else cpus
        self.origin = {rest[0]}
        self.client = set(rest[1:]) or {rest[0]}

    def __str__(self):
        if not self.pinned:
            return "nothing pinned: too few CPUs"
        return f"proxy on CPU {spell(self.proxy)}, origin on {spell(self.origin)}, client on {spell(self.client)}"


def spell(cpus):
    return ",".join(str(cpu) for cpu in sorted(cpus))


def confined(cpus):
    """What a child does before exec: end with the bench, take its CPUs and every file descriptor the limit allows."""

    def prepare():
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        os.sched_setaffinity(0, cpus)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    return prepare


class Child:
    """A long-running process: a proxy or an origin."""

    def __init__(self, command, cpus, log, stop_signal=signal.SIGTERM, env=None):
        self.command = [str(word) for word in command]
        self.cpus = cpus
        self.log = log
        self.stop_signal = stop_signal
        self.env = env or {}
        self.process = None

    def start(self):
        with open(self.log, "w") as sink:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True,
                preexec_fn=confined(self.cpus), env={**environment(self.command[0]), **self.env},
            )

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def stop(self):
        """Asks politely, waits five seconds, then kills the processes of this tree one by one."""
        if self.process is None:
            return
        if self.alive():
            pids = tree(self.process.pid)
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                for pid in pids:
                    end(pid)
                self.process.wait(5)
        self.process = None

    def cpu(self):
        return Cpu.read(tree(self.process.pid))

    def rss(self):
        """Resident bytes of the whole tree."""
        return sum(resident(pid) for pid in tree(self.process.pid))

    def last_words(self):
        with open(self.log, errors="replace") as file:
            lines = [line.strip() for line in file if line.strip()]
        return lines[-1] if lines else "it said nothing"


def end(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def tree(root):
    """The process and its living descendants."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = stat(int(entry))
            if fields:
                parents.setdefault(int(fields[1]), []).append(int(entry))
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue.extend(parents.get(pid, []))
    return found


def stat(pid):
    """/proc/PID/stat after the command name: state, parent, …; None when it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def resident(pid):
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


@dataclass
class Cpu:
    """CPU seconds of a tree so far: user and system in ticks of 10 ms, and exactly per thread."""

    user: float
    system: float
    threads: dict

    @classmethod
    def read(cls, pids):
        user = system = 0.0
        threads = {}
        for pid in pids:
            fields = stat(pid)
            if fields is None:
                continue
            # utime, stime and those of reaped children
            user += (int(fields[11]) + int(fields[13])) / TICK
            system += (int(fields[12]) + int(fields[14])) / TICK
            threads.update(thread_seconds(pid))
        return cls(user, system, threads)

    def since(self, before):
        """(total, user, system); exact while the same threads live, in ticks otherwise.

        Threads that began and ended meanwhile are in the ticks only, and give themselves away by that.
        """
        user, system = self.user - before.user, self.system - before.system
        ticks = user + system
        if self.threads and self.threads.keys() == before.threads.keys():
            exact = sum(self.threads[key] - before.threads[key] for key in self.threads)
            if ticks - exact <= MISSING:
                return exact, user, system
        return ticks, user, system


def thread_seconds(pid):
    seconds = {}
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat") as file:
                seconds[(pid, task)] = int(file.read().split()[0]) / 1e9
    except (FileNotFoundError, ProcessLookupError):
        pass
    return seconds


def settled_rss(child, deadline=10):
    """Resident bytes once two readings, a quarter second apart, agree within a half percent."""
    last, end_at = child.rss(), time.monotonic() + deadline
    while time.monotonic() < end_at:
        time.sleep(0.25)
        now = child.rss()
        if abs(now - last) <= last * 0.005:
            return now
        last = now
    return last


class Theft:
    """How much CPU time the host of a virtual machine took away meanwhile."""

    def __init__(self):
        self.begin = machine_ticks()

    def share(self):
        ticks = [now - then for now, then in zip(machine_ticks(), self.begin)]
        return ticks[7] / sum(ticks) if sum(ticks) else 0.0


def machine_ticks():
    """user, nice, system, idle, iowait, irq, softirq, steal of all CPUs."""
    with open("/proc/stat") as file:
        return [int(field) for field in file.readline().split()[1:9]]
