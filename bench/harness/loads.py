"""Load on one proxy for one round: wrk, h2load or the bench's own load tool, each bounded in time or count.

A load returns a Sample; errors are counted in it, never hidden.
"""

import json
import math
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.procs import confined
from harness.tools import OUT, environment

REPORT = Path(__file__).with_name("report.lua")
SMALL_BODY = 1024
BULK_BODY = 1 << 20


@dataclass
class Sample:
    """What the client saw in one round."""

    requests: int = 0
    bytes: int = 0
    seconds: float = 0.0
    p50_ms: float = None
    p99_ms: float = None
    errors: int = 0
    error: str = None


class Loads:
    """The load programs, placed on the client's CPUs."""

    def __init__(self, tools, own, cpus):
        self.tools = tools
        self.own = own
        self.cpus = cpus

    def run(self, command, timeout, meanwhile=None):
        """Runs a load to its end, and `meanwhile` beside it; kills the load when it overstays."""
        with subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, preexec_fn=confined(self.cpus), env=environment(command[0]),
        ) as process:
            try:
                if meanwhile:
                    meanwhile()
                out, err = process.communicate(timeout=timeout)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def wrk(self, url, connections, seconds, body, meanwhile=None, asked=None):
        """Keep-alive GETs for whole seconds; every answer must carry at least `body` bytes.

        With `asked`, `url` is a forward proxy's, which is asked for that one.
        """
        seconds = max(1, math.ceil(seconds))
        command = [self.tools.path("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s", "-s", REPORT, url]
        command += ["--", asked] if asked else []
        run = self.run(command, seconds + 60, meanwhile)
        found = re.search(r"^@(\{.*\})$", run.stdout, re.M)
        if not found:
            return Sample(errors=1, error=f"wrk: {last_line(run)}")
        seen = json.loads(found[1])
        sample = Sample(seen["requests"], seen["bytes"], seen["seconds"], seen["p50_ms"], seen["p99_ms"])
        broken = {kind: seen[kind] for kind in ("status", "connect", "read", "write", "timeout") if seen[kind]}
        if broken:
            sample.errors = sum(broken.values())
            sample.error = "wrk: " + ", ".join(f"{count} {kind} errors" for kind, count in broken.items())
        elif sample.requests == 0:
            sample.errors, sample.error = 1, "wrk: no request was answered"
        elif sample.bytes < sample.requests * body:
            sample.errors, sample.error = 1, f"wrk: {sample.bytes} bytes are too few for {sample.requests} bodies of {body}"
        return sample

    def h2load(self, url, connections, streams, count):
        """A fixed number of HTTP/2 requests."""
        with tempfile.NamedTemporaryFile(dir=OUT, suffix=".h2load") as log:
            command = [
                self.tools.path("h2load"), "-t1", f"-c{connections}", f"-m{streams}", f"-n{count}",
                "--connection-active-timeout=60s", "--connection-inactivity-timeout=10s", f"--log-file={log.name}", url,
            ]
            run = self.run(command, 120)
            micros = sorted(int(line.split("\t")[2]) for line in log.read().decode().splitlines())
        return h2_sample(run, micros, count)

    def connections(self, target, seconds, origin=None, form="tunnel", threads=16, sni=None):
        """New connections with full handshakes, one request each; with `origin` by way of a forward proxy, with `sni` passed through to the source."""
        command = [
            self.own, "connections", "--target", target, *through(origin), *named(sni), "--form", form, "--threads", threads,
            "--seconds", seconds, "--body", SMALL_BODY,
        ]
        run = self.run(command, seconds + 60)
        seen = parsed(run)
        if seen is None:
            return Sample(errors=1, error=last_line(run))
        return Sample(
            seen["done"], 0, seen["seconds"], seen["p50_ms"], seen["p99_ms"],
            seen["errors"] or int(seen["done"] == 0), seen["first_error"],
        )

    def sink(self, target, sni, connections, size, origin=None):
        """Bytes through a TLS pass-through, or through tunnels to `origin`, from the bench's own source."""
        command = [
            self.own, "sink", "--target", target, *through(origin), "--sni", sni, "--connections", connections,
            "--bytes", size,
        ]
        run = self.run(command, 120)
        seen = parsed(run)
        if seen is None:
            return Sample(errors=1, error=last_line(run))
        return Sample(connections, seen["bytes"], seen["seconds"], None, None, seen["errors"], seen["first_error"])

    def idle(self, target, connections, origin=None, sni=None):
        """A running client that holds idle connections, idle tunnels to `origin`, or connections that are passed through."""
        return IdleClient(
            [
                self.own, "idle", "--target", target, *through(origin), *named(sni), "--threads", 8, "--connections", connections,
                "--body", SMALL_BODY,
            ],
            self.cpus,
        )


def through(origin):
    """What tells the bench's own load that its target is a forward proxy."""
    return ["--origin", origin] if origin else []


def named(sni):
    """What tells the bench's own load that its target passes TLS through."""
    return ["--sni", sni] if sni else []


class IdleClient:
    """Holds idle connections until closed; speaks one JSON line per step."""

    def __init__(self, command, cpus):
        self.process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True, preexec_fn=confined(cpus),
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def opened(self):
        return self._answer()

    def check(self):
        self.process.stdin.write("check\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"open": 0, "alive": 0, "first_error": "the idle client ended"}


def h2_sample(run, micros, count):
    states = re.search(r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", run.stdout)
    codes = re.search(r"status codes: (\d+) 2xx", run.stdout)
    took = re.search(r"finished in ([\d.]+)(us|ms|s|m)", run.stdout)
    size = re.search(r"\((\d+)\) data", run.stdout)
    if not (states and codes and took and size):
        return Sample(errors=1, error=f"h2load: {last_line(run)}")
    succeeded = int(states[3])
    sample = Sample(
        succeeded, int(size[1]), float(took[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60}[took[2]],
        percentile(micros, 0.50), percentile(micros, 0.99),
    )
    if "Application protocol: h2" not in run.stdout:
        sample.errors, sample.error = 1, "h2load: HTTP/2 was not negotiated"
    elif succeeded != count or int(codes[1]) != count:
        sample.errors = max(1, count - min(succeeded, int(codes[1])))
        sample.error = f"h2load: {succeeded} of {count} succeeded, {codes[1]} were 2xx"
    elif sample.bytes != count * SMALL_BODY:
        sample.errors, sample.error = 1, f"h2load: {sample.bytes} bytes of data, not {count * SMALL_BODY}"
    return sample


def percentile(micros, share):
    return micros[min(int(len(micros) * share), len(micros) - 1)] / 1000 if micros else None


def parsed(run):
    try:
        return json.loads(run.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return None


def last_line(run):
    lines = (run.stderr or run.stdout).strip().splitlines()
    return lines[-1] if lines else f"ended with status {run.returncode} and said nothing"
