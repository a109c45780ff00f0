"""The workloads: what is asked of a proxy in one round, and which figure is taken from it.

Targets are upper bounds of Durward / peer, from the project's performance targets.
"""

import resource
import time
from dataclasses import dataclass, field
from typing import Callable

from harness.certs import PASS_NAME
from harness.loads import BULK_BODY, SMALL_BODY, Sample
from harness.procs import settled_rss
from harness.proxies import API, API_PEERS, FORWARD, FORWARD_PEERS

GB = 1e9
AGAINST_SQUID = {"squid": 0.50}
RAMP = 1  # seconds in which connections are opened, and in which the load may end


@dataclass
class Length:
    """How long rounds are: full, or quick for a smoke run."""

    rounds: int
    seconds: float
    idle: int
    pass_bytes: int


FULL = Length(rounds=6, seconds=4, idle=10_000, pass_bytes=1_000_000_000)
QUICK = Length(rounds=2, seconds=1, idle=1_000, pass_bytes=256_000_000)


@dataclass
class Outcome:
    """One round of one proxy: its figure (lower is better) and what the client saw."""

    figure: float
    user: float
    system: float
    sample: Sample
    notes: list = field(default_factory=list)


@dataclass
class Workload:
    """A name, the door it knocks at, the unit of its figure, and how a round is run."""

    name: str
    door: str
    sentence: str
    unit: str
    targets: dict
    round: Callable
    warm: Callable = None
    limit: float = None  # an absolute bound of Durward's figure
    rate: str = "req/s"
    is_memory: bool = False  # whether the figure is memory of the proxy's process


def costed(load, per):
    """Runs the load to its end and divides the proxy's CPU seconds by what `per` counts of the sample."""

    def run(proxy, loads, length):
        before = proxy.child.cpu()
        sample = load(proxy, loads, length)
        return priced(proxy.child.cpu().since(before), per(sample), sample)

    return run


def priced(cpu, units, sample):
    total, user, system = cpu
    if not units:
        return Outcome(0, 0, 0, sample)
    # user and system come in ticks; they are scaled to the exact total
    scale = total / (user + system) if user + system else 0
    return Outcome(total / units, user * scale / units, system * scale / units, sample)


def warm_wrk(door, path, body):
    return lambda proxy, loads, length: loads.wrk(proxy.url(door, path), 8, 1, body)


def asked(proxy, door):
    """The URL a forward proxy is asked for; None at the other doors."""
    return proxy.setting.small() if door == FORWARD else None


def keepalive(name, door, connections, sentence, targets):
    return Workload(
        name, door, sentence, "CPU-s/100k requests", targets, round=steady(door, connections),
        warm=warm_wrk(door, "/small", SMALL_BODY),
    )


def steady(door, connections):
    """Figures of a window within the load, so that opening the connections is not counted.

    The origin counts the requests of the window: it sees nothing else.
    """

    def run(proxy, loads, length):
        marks = []

        def window():
            time.sleep(RAMP)
            marks.append((proxy.child.cpu(), proxy.setting.served()))
            time.sleep(length.seconds)
            marks.append((proxy.child.cpu(), proxy.setting.served()))

        url = proxy.url(door, "/small")
        sample = loads.wrk(url, connections, RAMP + length.seconds + RAMP, SMALL_BODY, window, asked(proxy, door))
        (before, served_before), (after, served_after) = marks
        return priced(after.since(before), (served_after - served_before) / 100_000, sample)

    return run


def bulk():
    return Workload(
        "bulk", "tls", "1 MiB bodies over TLS 1.3 keep-alive, wrk -c16", "CPU-s/GB",
        {"nginx": 0.50, "haproxy": 0.60},
        round=costed(
            lambda proxy, loads, length: loads.wrk(proxy.url("tls", "/bulk"), 16, length.seconds, BULK_BODY),
            lambda sample: sample.bytes / GB,
        ),
        warm=warm_wrk("tls", "/bulk", BULK_BODY),
    )


def handshakes(name, door, key, targets):
    return Workload(
        name, door, f"new TCP + full TLS 1.3 handshake ({key}, X25519), one GET, close; 16 at a time",
        "CPU-s/10k connections", targets,
        round=costed(
            lambda proxy, loads, length: loads.connections(proxy.at(door), length.seconds),
            lambda sample: sample.requests / 10_000,
        ),
        warm=lambda proxy, loads, length: loads.connections(proxy.at(door), 0.3),
        rate="conn/s",
    )


def http2(name, connections, streams, targets):
    counts = {}

    def load(proxy, loads, length):
        count = counts.get(proxy.name, 20_000)
        return loads.h2load(proxy.url("tls", "/small"), connections, streams, count)

    def warm(proxy, loads, length):
        # h2load is given a count, so that nothing is cut off; the warm-up says how many fill a round
        sample = loads.h2load(proxy.url("tls", "/small"), connections, streams, 4_000)
        if sample.seconds and not sample.errors:
            counts[proxy.name] = min(200_000, max(4_000, int(sample.requests / sample.seconds * length.seconds)))
        return sample

    return Workload(
        name, "tls", f"HTTP/2 over TLS, GET 1 KiB, h2load {connections} connections x {streams} streams",
        "CPU-s/100k requests", targets, round=costed(load, lambda sample: sample.requests / 100_000), warm=warm,
    )


def passthrough():
    return Workload(
        "passthrough", "pass", "TLS pass-through by SNI, 4 connections, bytes from server to client", "CPU-s/GB",
        {"haproxy": 0.85, "nginx": 0.32},
        round=costed(
            lambda proxy, loads, length: loads.sink(proxy.at("pass"), PASS_NAME, 4, length.pass_bytes),
            lambda sample: sample.bytes / GB,
        ),
        warm=lambda proxy, loads, length: loads.sink(proxy.at("pass"), PASS_NAME, 4, 8_000_000),
        rate="Gbit/s",
    )


def api_bulk():
    return Workload(
        "api-bulk", API, "hosted API server by SNI, 4 connections, bytes from server to client", "CPU-s/GB",
        {"haproxy": 1.05, "haproxy-defaults": 0.75},
        round=costed(
            lambda proxy, loads, length: loads.sink(proxy.at(API), PASS_NAME, 4, length.pass_bytes),
            lambda sample: sample.bytes / GB,
        ),
        warm=lambda proxy, loads, length: loads.sink(proxy.at(API), PASS_NAME, 4, 8_000_000),
        rate="Gbit/s",
    )


def api_new():
    def load(seconds):
        return lambda proxy, loads, length: loads.connections(proxy.at(API), seconds(length), sni=PASS_NAME)

    return Workload(
        "api-new", API, "hosted API server by SNI: new TCP + ClientHello, 1 KiB back, close; 16 at a time",
        "CPU-s/10k connections", {"haproxy": 1.00},
        round=costed(load(lambda length: length.seconds), lambda sample: sample.requests / 10_000),
        warm=load(lambda length: 0.3), rate="conn/s",
    )


def api_idle():
    return Workload(
        "api-idle", API, "idle watches of a hosted API server, each used once; resident memory of the proxy per connection",
        "KiB/connection", {}, round=held(API), rate="conns", is_memory=True,
    )


def idle():
    return Workload(
        "idle", "tls", "idle TLS keep-alive connections, each used once; resident memory of the proxy per connection",
        "KiB/connection", {}, round=held("tls"), limit=27.0, rate="conns", is_memory=True,
    )


def held(door):
    """A fresh proxy, warmed; resident memory before and while the connections are held."""

    def run(proxy, loads, length):
        wanted = reachable(length.idle)
        origin = proxy.setting.http if door == FORWARD else None
        sni = PASS_NAME if door == API else None
        program, word = proxy.frugal or (None, None)
        proxy.restart(program)
        if origin or sni:
            loads.connections(proxy.at(door), 1, origin, sni=sni)
        else:
            loads.wrk(proxy.url(door, "/small"), 32, 1, SMALL_BODY)
        before = settled_rss(proxy.child)
        with loads.idle(proxy.at(door), wanted, origin, sni) as client:
            opened = client.opened()
            during = settled_rss(proxy.child)
            alive = client.check()
        if program:
            proxy.restart()
        return weighed(during - before, opened, alive, wanted, length.idle, [word] if word else [])

    return run


def forward_small():
    """wrk keeps its connections; where the proxy does not, each request brings one of its own."""
    kept = steady(FORWARD, 32)
    alone = costed(
        lambda proxy, loads, length: loads.connections(
            proxy.at(FORWARD), length.seconds, proxy.setting.http, form="absolute", threads=32
        ),
        lambda sample: sample.requests / 100_000,
    )

    def run(proxy, loads, length):
        if proxy.keeps_connections:
            return kept(proxy, loads, length)
        outcome = alone(proxy, loads, length)
        outcome.notes.append("it closes after each request: 32 at a time on new connections")
        return outcome

    return Workload(
        "forward-small", FORWARD, "forward proxy, absolute-form GET 1 KiB keep-alive, wrk -c32", "CPU-s/100k requests",
        dict(AGAINST_SQUID), round=run,
        warm=lambda proxy, loads, length: loads.connections(proxy.at(FORWARD), 0.3, proxy.setting.http, form="absolute"),
    )


def connect_bulk():
    def load(size):
        return lambda proxy, loads, length: loads.sink(
            proxy.at(FORWARD), PASS_NAME, 4, size(length), origin=proxy.setting.raw
        )

    return Workload(
        "connect-bulk", FORWARD, "CONNECT, 4 tunnels, bytes from server to client", "CPU-s/GB", dict(AGAINST_SQUID),
        round=costed(load(lambda length: length.pass_bytes), lambda sample: sample.bytes / GB),
        warm=load(lambda length: 8_000_000), rate="Gbit/s",
    )


def connect_new():
    def load(seconds):
        return lambda proxy, loads, length: loads.connections(proxy.at(FORWARD), seconds(length), proxy.setting.http)

    return Workload(
        "connect-new", FORWARD, "new TCP + CONNECT, one GET through the tunnel, close; 16 at a time",
        "CPU-s/10k tunnels", dict(AGAINST_SQUID),
        round=costed(load(lambda length: length.seconds), lambda sample: sample.requests / 10_000),
        warm=load(lambda length: 0.3), rate="tunnels/s",
    )


def connect_idle():
    return Workload(
        "connect-idle", FORWARD, "idle CONNECT tunnels, each used once; resident memory of the proxy per tunnel",
        "KiB/tunnel", dict(AGAINST_SQUID), round=held(FORWARD), rate="tunnels", is_memory=True,
    )


def weighed(grown, opened, alive, wanted, asked, notes):
    count = opened["open"]
    if wanted < asked:
        notes.append(f"{wanted} connections instead of {asked}: the limit of open files")
    sample = Sample(requests=count)
    error = opened["first_error"] or alive["first_error"]
    if error or count < wanted:
        sample.errors, sample.error = max(1, wanted - count), f"{count} of {wanted} connections held: {error}"
    return Outcome(grown / 1024 / max(count, 1), 0, 0, sample, notes)


def reachable(wanted):
    """As many connections as the limit of open files allows a proxy on both sides, with some to spare."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(wanted, (hard - 1_000) // 2) if hard != resource.RLIM_INFINITY else wanted


def catalogue():
    """All workloads in the order they are run."""
    return [
        keepalive(
            "small", "tls", 32, "TLS 1.3 keep-alive, GET 1 KiB, wrk -c32",
            {"nginx": 0.90, "haproxy": 0.88, "pingora": 0.55, "envoy": 0.30},
        ),
        keepalive("small256", "tls", 256, "TLS 1.3 keep-alive, GET 1 KiB, wrk -c256", {"nginx": 0.90}),
        keepalive("plain", "plain", 32, "plain HTTP keep-alive, GET 1 KiB, wrk -c32", {"nginx": 1.05, "haproxy": 0.95}),
        bulk(),
        handshakes("handshakes-ecdsa", "tls", "ECDSA P-256", {"nginx": 0.50, "envoy": 0.65}),
        handshakes("handshakes-rsa", "rsa", "RSA-2048", {"nginx": 0.80}),
        http2("http2", 8, 16, {"nginx": 1.00, "haproxy": 1.20, "envoy": 0.35}),
        http2("http2-wide", 32, 1, {"nginx": 1.00}),
        idle(),
        passthrough(),
        api_bulk(),
        api_new(),
        api_idle(),
        forward_small(),
        connect_bulk(),
        connect_new(),
        connect_idle(),
    ]


def peers_for(names, chosen):
    """Of the peers named, those that have a part in the chosen workloads: forward proxies at theirs, the others elsewhere, Durward at both."""
    doors = {workload.door for workload in chosen}
    forward = {door == FORWARD for door in doors}

    def has_part(name):
        if name in API_PEERS:
            return API in doors
        return name == "former" or (name in FORWARD_PEERS) in forward

    return [name for name in names if has_part(name)]
