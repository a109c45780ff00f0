"""The ways to bring a packet to a pod: the kernel alone, Durward, iptables with a rule per mapping, and SmartNat's rules.

Rules are text for iptables-restore and `ipset restore`, loaded at once. Each way has namespaces of its own and all of them stay up, so
that rounds can be interleaved. Durward itself never runs such a program.
"""

import http.client
import os
import time

from harness.netns import CLUSTER, EXTERNAL, POD, ROUTER, Worlds
from harness.procs import Child
from harness.tools import DEBS, OUT, environment

FIRST_PORT = 10_000
POD_PORT = 8080
PATIENCE = 120  # seconds for 10,000 mappings on a busy machine
ADMIN_PORT = 9440
RULES_AT_ONCE = 200  # as many as fit into the socket buffer of iptables-nft, which no capability of a user namespace enlarges


class Unusable(Exception):
    """A way that cannot be had here, and why."""


def port(number):
    return FIRST_PORT + number - 1


def protocols(number, count):
    """Every second mapping is of the other protocol; the last one, which is measured, is of both."""
    return ("tcp", "udp") if number == count else ("tcp",) if number % 2 else ("udp",)


class Way:
    """How packets are carried in one set of namespaces."""

    prefix = ""

    def __init__(self, count=0, tools=None, program=None):
        self.count, self.tools, self.program = count, tools, program
        self.name = f"{self.prefix}{count}" if count else self.prefix
        self.target = (EXTERNAL, port(count)) if count else (POD, POD_PORT)
        self.version = ""
        self.pod = self.worlds = None

    def start(self, own):
        self.worlds = Worlds()
        self.pod = Child([own, "pod", "--port", POD_PORT], set(os.sched_getaffinity(0)), OUT / f"{self.name}-pod.log")
        self.worlds.pod.run(self.pod.start)
        self.build(self.worlds.gateway)

    def build(self, gateway):
        raise NotImplementedError

    def stop(self):
        if self.pod:
            self.pod.stop()


class Plain(Way):
    """Forwarding, and nothing that looks."""

    prefix = "plain"

    def build(self, gateway):
        pass


class Durward(Way):
    """The gateway itself, as `durward run` starts it."""

    prefix = "durward-"
    child = None

    def build(self, gateway):
        folder = OUT / self.name
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "mappings.yaml"
        self.config.write_text(documents(self.count))
        command = [
            self.program, "--log-format", "json", "run", "-c", self.config, "--access-log", "off", "--workers", "1",
            "--admin", f"127.0.0.1:{ADMIN_PORT}", "--nat-external", "ext1", f"--nat-gateway=ext1={ROUTER}", "--nat-cluster", CLUSTER,
        ]
        self.child = Child(command, set(os.sched_getaffinity(0)), OUT / f"{self.name}.log")
        begin = time.monotonic()
        gateway.run(self.child.start)
        while (said := gateway.run(ready)) != 200:
            if not self.child.alive() or time.monotonic() - begin > PATIENCE:
                raise Unusable(f"durward: {said}: {self.child.last_words()}")
            time.sleep(0.01)
        self.seconds_to_ready = time.monotonic() - begin

    def stop(self):
        if self.child:
            self.child.stop()
        super().stop()


def ready():
    """What the gateway of this namespace answers to the question whether it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", ADMIN_PORT, timeout=PATIENCE)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    except OSError as error:
        return str(error)
    finally:
        connection.close()


def documents(count, changed=None):
    """A tenant with so many mappings of one port; the endpoint of `changed` is another one."""
    head = "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {name: acme}\nspec: {egress: {addresses: ['203.0.113.1']}}\n"
    return head + "".join(document(number, count, number == changed) for number in range(1, count + 1))


def document(number, count, changed):
    endpoint = f"10.244.9.9:{POD_PORT}" if changed else f"{POD}:{POD_PORT}"
    ports = ", ".join(
        f"{{port: {port(number)}, protocol: {protocol.upper()}, endpoints: ['{endpoint}']}}" for protocol in protocols(number, count)
    )
    return (
        f"---\napiVersion: durward.dev/v1alpha1\nkind: PortMapping\nmetadata: {{name: m{number}}}\n"
        f"spec: {{tenant: acme, addresses: ['{EXTERNAL}'], ports: [{ports}]}}\n"
    )


class Iptables(Way):
    """iptables of one of its two kinds, unpacked or installed."""

    kind = "legacy"

    def __init__(self, count=0, tools=None, program=None, kind="legacy"):
        self.kind = kind
        self.prefix = self.prefix.format(kind)
        super().__init__(count, tools, program)

    def restore(self, gateway, text):
        program = self.tools.path(f"xtables-{self.kind}-multi")
        if not program:
            raise Unusable(f"iptables: {self.tools.missing[f'xtables-{self.kind}-multi']}")
        env = {**environment(program), "XTABLES_LOCKFILE": str(OUT / "xtables.lock")}
        extensions = [path for path in DEBS.glob("usr/lib/*-linux-gnu*/xtables") if DEBS in program.parents]
        if extensions:
            env["XTABLES_LIBDIR"] = str(extensions[0])
        for part in parts(text, len(text) if self.kind == "legacy" else RULES_AT_ONCE):
            self.call(gateway, [program, "iptables-restore", "--noflush"], part, env)
        self.version = self.call(gateway, [program, "iptables", "-V"], None, env).strip()

    def call(self, gateway, command, text, env):
        try:
            return gateway.call(command, text=text, env=env)
        except RuntimeError as error:
            raise Unusable(str(error).splitlines()[-1]) from error


def parts(text, size):
    """The same for iptables-restore in several steps: chains with the first rules of their table, then more rules."""
    for table in text.split("COMMIT\n")[:-1]:
        lines = table.splitlines()
        chains = [line for line in lines[1:] if line.startswith(":")]
        rules = [line for line in lines[1:] if not line.startswith(":")]
        for at in range(0, len(rules), size):
            yield "\n".join([lines[0], *(chains if at == 0 else []), *rules[at : at + size], "COMMIT", ""])


class Conntrack(Iptables):
    """Connections are tracked, and nothing is done with that."""

    prefix = "conntrack"

    def build(self, gateway):
        self.restore(gateway, "*filter\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n")


class Linear(Iptables):
    """One rule per mapping, and nothing else: no source lists, no marks, no return path."""

    prefix = "iptables-{}-"

    def build(self, gateway):
        self.restore(gateway, linear(self.count))


def linear(count):
    rules = [
        f"-A PREROUTING -d {EXTERNAL}/32 -p {protocol} -m {protocol} --dport {port(number)} -j DNAT --to-destination {POD}:{POD_PORT}"
        for number in range(1, count + 1) for protocol in protocols(number, count)
    ]
    return "\n".join(["*nat", *rules, "COMMIT", ""])


class SmartNat(Iptables):
    """SmartNat's chains and sets, with its documented defaults: masquerade on, SNAT off."""

    prefix = "smartnat-{}-"

    def build(self, gateway):
        ipset = self.tools.path("ipset")
        if not ipset:
            raise Unusable(f"ipset: {self.tools.missing['ipset']}")
        self.call(gateway, [ipset, "restore"], smartnat_sets(self.count), environment(ipset))
        self.restore(gateway, smartnat_rules(self.count))


def smartnat_name(number):
    """As long as its own names, which are a hash."""
    return f"M{number:023}"


def smartnat_sets(count):
    """Per mapping the pods, and sources by port; all sources are two halves, since a set has no /0."""
    lines = []
    for number in range(1, count + 1):
        name = smartnat_name(number)
        pod = POD if number == count else f"10.244.{number // 250 + 1}.{number % 250 + 1}"
        lines += [f"create {name} hash:ip", f"add {name} {pod}", f"create DNAT-{name} hash:net,port"]
        lines += [
            f"add DNAT-{name} {half},{protocol}:{port(number)}"
            for half in ("0.0.0.0/1", "128.0.0.0/1") for protocol in protocols(number, count)
        ]
    return "\n".join([*lines, ""])


def smartnat_rules(count):
    """Every packet walks the mangle chain, every new connection the nat chain; the pod stands where kube-proxy's address would."""
    names = [smartnat_name(number) for number in range(1, count + 1)]
    mangle = ["*mangle", ":SNM-PREROUTING - [0:0]", "-A PREROUTING -j SNM-PREROUTING"]
    mangle += [f"-A SNM-PREROUTING -m set --match-set {name} src -j MARK --set-xmark 0x802/0x802" for name in names]
    nat = ["*nat", ":SNM-PREROUTING - [0:0]", ":SNM-POSTROUTING-MASQ - [0:0]", *(f":MAP-{name} - [0:0]" for name in names)]
    nat += ["-A PREROUTING -j SNM-PREROUTING", "-A POSTROUTING -j SNM-POSTROUTING-MASQ"]
    for number, name in enumerate(names, 1):
        nat.append(f"-A SNM-PREROUTING -d {EXTERNAL}/32 -m set --match-set DNAT-{name} src,dst -j MAP-{name}")
        nat.append(f"-A MAP-{name} -j MARK --or-mark 0x00100000")
        nat += [
            f"-A MAP-{name} -p {protocol} -m {protocol} --dport {port(number)} -j DNAT --to-destination {POD}:{POD_PORT}"
            for protocol in protocols(number, count)
        ]
    nat.append("-A SNM-POSTROUTING-MASQ -m mark --mark 0x00100000/0x00100000 -j MASQUERADE")
    return "\n".join([*mangle, "COMMIT", *nat, "COMMIT", ""])
