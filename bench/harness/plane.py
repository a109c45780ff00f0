"""What the kernel plane is measured by: packets and connections through each way, and changes until the kernel has them.

A round's figure counts only when every packet of it reached the pod and every connection was made.
"""

import json
import socket
import struct
import time
from dataclasses import dataclass
from statistics import median, quantiles

from harness import layouts, report
from harness.loads import Sample
from harness.netns import SOURCES
from harness.procs import settled_rss
from harness.workloads import Outcome, Workload

SUBJECT = "durward-10000"
BASE = "plain"
NEW_GENERATION = 10 << 8 | 15  # NFT_MSG_NEWGEN
CHANGES_OF_RULES = 1 << 6  # the group NFNLGRP_NFTABLES


@dataclass
class Length:
    """How long rounds are: full, or quick for a smoke run."""

    rounds: int
    established: int
    new: int
    connections: int
    changes: int
    idle: float


FULL = Length(rounds=31, established=5_000, new=1_000, connections=100, changes=50, idle=20)
QUICK = Length(rounds=2, established=2_000, new=500, connections=50, changes=5, idle=2)


def workloads():
    """Each is measured in every round; the targets are bounds of Durward with 10,000 mappings divided by another way."""
    thirtieth = {"smartnat-legacy-1000": 1 / 30}
    flat = {"durward-1": 1.10}
    return [
        Workload("established", "", "a packet of a connection that exists", "ns/packet", {BASE: 1.30, **flat, **thirtieth}, None),
        Workload("new", "", "the first packet of a connection", "ns/packet", {**flat, **thirtieth}, None),
        Workload("connection", "", "TCP: connect and reset", "ns/connection", {}, None),
    ]


def ways(tools, program):
    for make in (layouts.Plain, layouts.Conntrack):
        yield make(tools=tools)
    for count in (1, 100, 1_000, 10_000):
        yield layouts.Durward(count, program=program)
    for kind in ("legacy", "nft"):
        for count in (100, 1_000):
            yield layouts.Linear(count, tools, kind=kind)
    for kind, count in (("legacy", 100), ("legacy", 1_000), ("nft", 1_000)):
        yield layouts.SmartNat(count, tools, kind=kind)


def one_round(way, own, cpu, index, length):
    """Outcomes by workload; an error is one of all of them."""
    address, port = way.target
    command = [
        own, "packets", "--target", f"{address}:{port}", "--source", f"{SOURCES}.{index + 1}:0", "--cpu", cpu,
        "--established", length.established, "--new", length.new, "--connections", length.connections,
    ]
    before = way.worlds.pod.received("eth0")
    try:
        said = json.loads(way.worlds.partner.call(command))
    except RuntimeError as error:
        return dict.fromkeys(NAMES, failed(str(error)))
    arrived = way.worlds.pod.received("eth0") - before
    if said["error"]:
        return dict.fromkeys(NAMES, failed(said["error"]))
    if arrived < said["packets"]:
        return dict.fromkeys(NAMES, failed(f"{said['packets'] - arrived} of {said['packets']} packets did not arrive"))
    counts = {"established": length.established, "new": length.new, "connection": length.connections}
    return {name: outcome(said[f"{name}_ns"], counts[name]) for name in NAMES}


NAMES = ("established", "new", "connection")


def outcome(figure, count):
    return Outcome(figure, 0, 0, Sample(count, 0, 0, None, None, 0, None))


def failed(error):
    return Outcome(0, 0, 0, Sample(0, 0, 0, None, None, 1, error))


def summarise(workload, rounds):
    """What the report of the proxies says, and each way divided by plain forwarding."""
    summary = report.summarise(workload, rounds, SUBJECT)
    proxies = summary["proxies"]
    summary["of_plain"] = {
        name: report.ratio(workload, proxies[name], proxies[BASE], name, BASE) for name in proxies if name != BASE and BASE in proxies
    }
    return summary


def table(workload, summary):
    head = ["way", summary["unit"], "[min..max]", f"/ {BASE}", "[min..max]", f"{SUBJECT} / it", "[min..max]", "target"]
    rows = [head]
    for name, way in summary["proxies"].items():
        of_plain, of_subject = summary["of_plain"].get(name, {}), summary["ratios"].get(name, {})
        figures = ["errors", ""] if way["median"] is None else [f"{way['median']:.0f}", f"[{way['min']:.0f}..{way['max']:.0f}]"]
        rows.append([name, *figures, *cells(of_plain), *cells(of_subject, 3), report.verdict(of_subject)])
    return report.block(f"{workload.name}: {summary['sentence']}", rows, report.remarks(summary))


def cells(found, digits=2):
    if "ratio" not in found:
        return ["refused" if found else "", ""]
    return [f"{found['ratio']:.{digits}f}", f"[{found['min']:.{digits}f}..{found['max']:.{digits}f}]"]


def daemon(way, length):
    """What the process itself needs, and how long a change of a document takes until the kernel has it."""
    child = way.child
    found = {"mappings": way.count, "ready_seconds": way.seconds_to_ready, "resident_bytes": settled_rss(child)}
    before, begin = child.cpu(), time.monotonic()
    time.sleep(length.idle)
    used, _, _ = child.cpu().since(before)
    found["idle_percent"] = 100 * used / (time.monotonic() - begin)
    took = way.worlds.gateway.run(lambda: changes(way, length.changes))
    found["document_ms"] = spread([seconds * 1000 for seconds in took])
    return found


def changes(way, count):
    """Seconds from the moment a file has its new name to the kernel's word of a new generation, for so many changes."""
    took = []
    new = way.config.with_suffix(".new")
    for index in range(count):
        new.write_text(layouts.documents(way.count, changed=way.count // 2 if index % 2 == 0 else None))
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as kernel:
            kernel.bind((0, CHANGES_OF_RULES))
            kernel.settimeout(layouts.PATIENCE)
            begin = time.monotonic()
            new.replace(way.config)
            while NEW_GENERATION not in kinds(kernel.recv(1 << 16)):
                pass
            took.append(time.monotonic() - begin)
    return took


def kinds(datagram):
    """The kinds of the messages in a datagram."""
    at, found = 0, []
    while at + 16 <= len(datagram):
        length, kind = struct.unpack_from("=IH", datagram, at)
        found.append(kind)
        at += max(16, (length + 3) & ~3)
    return found


def spread(values):
    ordered = sorted(values)
    return {"p50": median(ordered), "p99": quantiles(ordered, n=100, method="inclusive")[98] if len(ordered) > 1 else ordered[0]}


def engine(program, gateway):
    """What the engine's own bench measures, one JSON object per line: model to kernel, without files and documents."""
    lines = gateway.call([program]).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def times(steps, process):
    """The times of changes as lines for people, with the bounds of the project."""
    rows = [["step", "mappings", "p50 ms", "p99 ms", "connections cut ms", "CPU ms", "target"]]
    for step in steps:
        cells = [f"{step[name]:.2f}" for name in ("p50_ms", "p99_ms", "cut_ms", "cpu_ms")]
        rows.append([step["step"], str(step["mappings"]), *cells, bound(step)])
    document = process["document_ms"]
    rows.append(["a document changed, file to kernel", str(process["mappings"]), f"{document['p50']:.0f}", f"{document['p99']:.0f}", "", "", ""])
    lines = [
        f"  - the process with {process['mappings']} mappings: {process['resident_bytes'] / 1e6:.0f} MB resident, "
        f"{process['idle_percent']:.2f} % of a core when idle, ready {process['ready_seconds']:.1f} s after its start"
    ]
    return report.block("changes: until the kernel has them", rows, lines)


def bound(step):
    if "target_ms" not in step:
        return ""
    return f"< {step['target_ms']:g} {'met' if met(step) else 'MISSED'}"


def met(step):
    return step["p50_ms"] < step["target_ms"]


def missed(summaries, steps):
    late = [f"{step['step']}: {step['p50_ms']:.1f} ms, target {step['target_ms']:g}" for step in steps if "target_ms" in step and not met(step)]
    return report.missed(summaries) + late
