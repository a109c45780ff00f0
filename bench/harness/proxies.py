"""The proxies that are compared and the origin behind them: one configuration each, all below bench/out.

Every proxy gets its own loopback address and the same doors; none writes an access log.
"""

import os
import pwd
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from dataclasses import dataclass

from harness import certs
from harness.loads import BULK_BODY, SMALL_BODY
from harness.procs import Child
from harness.tools import OUT, environment

ORIGIN_ADDRESS = "127.91.1.1"
EGRESS_ADDRESS = "127.91.2.1"
NAMES = ["durward", "nginx", "haproxy", "pingora", "envoy", "squid", "tinyproxy", "former", "haproxy-defaults", "direct"]
ADDRESSES = {name: f"127.91.0.{index}" for index, name in enumerate(NAMES, 1)}
DOORS = ["tls", "rsa", "plain", "pass"]
FORWARD = "forward"  # the door of forward proxies
API_PEERS = ["haproxy-defaults", "direct"]
API = "api"  # the door of a hosted API server, whose TLS is passed through by SNI
FORWARD_PEERS = ["squid", "tinyproxy"]
IDLE_SECONDS = 600


@dataclass
class Setting:
    """What all proxies have in common in one run."""

    ports: dict  # door -> port, the same for every proxy
    http: str  # the HTTP origin, address:port
    raw: str  # the origin of pass-through bytes, address:port
    certificates: certs.Certificates
    workers: int
    placement: object

    def small(self):
        """What a forward proxy is asked for."""
        return f"http://{self.http}/small"

    def served(self):
        """How many requests the HTTP origin has had so far, this question included."""
        with urllib.request.urlopen(f"http://{self.http}/served", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return int(lines[2].split()[2])


class Proxy:
    """One peer: how it is configured and started, and which doors it has."""

    doors = DOORS
    is_process = True  # whether there is a process whose CPU and memory can be read
    keeps_connections = True  # whether a client's connection serves more than one request
    frugal = None  # (another program that needs less memory but more CPU, a word about it)

    def __init__(self, name, program, setting):
        self.name = name
        self.program = program
        self.setting = setting
        self.address = ADDRESSES[name]
        self.folder = OUT / name
        self.child = None
        self.version = "unknown"

    def at(self, door):
        return f"{self.address}:{self.setting.ports[door]}"

    def url(self, door, path):
        return f"{'http' if door in ('plain', FORWARD) else 'https'}://{self.at(door)}{path}"

    def start(self):
        """Starts and probes it; raises Unusable with the reason when it does not serve."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.child = Child(
            self.prepare(), self.setting.placement.proxy, self.folder / "output.log", self.stop_signal(), self.env()
        )
        self.child.start()
        try:
            wait_until_served(self)
        except BaseException:
            self.stop()
            raise

    def stop(self):
        if self.child:
            self.child.stop()

    def restart(self, program=None):
        """A fresh process, of another program when one is given, of its own again otherwise."""
        self.stop()
        usual, self.program = self.program, program or self.program
        try:
            self.start()
        finally:
            self.program = usual

    def prepare(self):
        """Writes the configuration; returns the command."""
        raise NotImplementedError

    def stop_signal(self):
        return signal.SIGTERM

    def env(self):
        return {}


class Unusable(Exception):
    """The proxy does not serve what the bench asks for."""


class Durward(Proxy):
    doors = [*DOORS, API, FORWARD]

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.version = says([self.program, "version"]) or str(self.program)
        # A former binary may be from before hosted API servers.
        if "HostedApi" not in output([self.program, "schema"]):
            self.doors = [door for door in Durward.doors if door != API]

    def prepare(self):
        config = OUT / f"{self.name}.yaml"
        ecdsa, rsa = self.setting.certificates.ecdsa, self.setting.certificates.rsa
        origin = ["upstream: origin"]
        config.write_text(f"""apiVersion: durward.dev/v1alpha1
kind: Tenant
metadata: {{name: bench}}
spec:
  ingress:
{self.listener("tls", "HTTPS", [*shown(ecdsa), *origin])}
{self.listener("rsa", "HTTPS", [*shown(rsa), *origin])}
{self.listener("plain", "HTTP", origin)}
{self.listener("pass", "TLS", ["routes:", f"  - {{host: {certs.PASS_NAME}, upstream: raw}}"])}
  upstreams:
    origin: {{endpoints: ["{self.setting.http}"], pool: {{idlePerCore: 1024}}}}
    raw: {{endpoints: ["{self.setting.raw}"]}}
  egress:
    addresses: [{EGRESS_ADDRESS}]
    proxy:
      - {{address: {self.address}, port: {self.setting.ports[FORWARD]}, allowedSources: [127.0.0.0/8]}}
    allow:
      - {{cidr: {ORIGIN_ADDRESS}/32, ports: [{self.setting.ports["http"]}, {self.setting.ports["raw"]}]}}
  limits: {{timeouts: {{idle: {IDLE_SECONDS}s}}}}
""" + (self.hosted_api() if API in self.doors else ""))
        return [
            self.program, "run", "-c", config, "--workers", self.setting.workers, "--strict",
            "--admin", "off", "--access-log", "off", "--decision-log", "off", "--drain-grace", "1s",
        ]

    def hosted_api(self):
        return f"""---
apiVersion: durward.dev/v1alpha1
kind: HostedApi
metadata: {{name: bench}}
spec:
  tenant: bench
  names: [{certs.PASS_NAME}]
  address: {self.address}
  port: {self.setting.ports[API]}
  # The source speaks no TLS, so it is asked once and counts as healthy.
  upstream: {{endpoints: ["{self.setting.raw}"], healthCheck: {{interval: 1h, unhealthyAfter: 10}}}}
"""

    def listener(self, door, protocol, more):
        head = [f"- address: {self.address}", f"  port: {self.setting.ports[door]}", f"  protocol: {protocol}"]
        return "\n".join(f"    {line}" for line in head + [f"  {line}" for line in more])


def shown(leaf):
    return [f"certificate: {{file: {leaf.certificate.with_suffix('')}}}", 'minTlsVersion: "1.3"']


class Nginx(Proxy):
    def __init__(self, name, program, setting, stream_module):
        super().__init__(name, program, setting)
        self.stream_module = stream_module
        self.version = says([program, "-v"])
        if not stream_module:
            self.doors = [door for door in DOORS if door != "pass"]
        else:
            self.doors = [*DOORS, API]

    def prepare(self):
        setting, ports = self.setting, self.setting.ports

        def tls(door, leaf):
            return f"""
    server {{
        listen {self.address}:{ports[door]} ssl http2;
        ssl_certificate {leaf.certificate};
        ssl_certificate_key {leaf.key};
        ssl_protocols TLSv1.3;
        location / {{ proxy_pass http://origin; }}
    }}"""

        http = f"""
    keepalive_requests 1000000000;
    keepalive_timeout {IDLE_SECONDS}s;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_max_temp_file_size 0;
    upstream origin {{
        server {setting.http};
        keepalive 1024;
        keepalive_requests 1000000000;
        keepalive_time 24h;
    }}
    server {{
        listen {self.address}:{ports['plain']};
        location / {{ proxy_pass http://origin; }}
    }}{tls('tls', setting.certificates.ecdsa)}{tls('rsa', setting.certificates.rsa)}"""
        return nginx_command(self.program, self.folder, setting.workers, http, self.stream())

    def stream(self):
        if not self.stream_module:
            return "", ""
        return f"load_module {self.stream_module};\n", f"""
stream {{
    map $ssl_preread_server_name $behind {{ {certs.PASS_NAME} {self.setting.raw}; }}
    server {{
        listen {self.address}:{self.setting.ports['pass']};
        listen {self.address}:{self.setting.ports[API]};
        ssl_preread on;
        proxy_buffer_size 64k;
        proxy_pass $behind;
    }}
}}
"""


class Haproxy(Proxy):
    doors = [*DOORS, API]
    pipes, splice = "tune.pipesize 262144", "option splice-response"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.version = says([self.program, "-v"])

    def prepare(self):
        setting, ports = self.setting, self.setting.ports
        config = self.folder / "haproxy.cfg"
        config.write_text(f"""global
    nbthread {setting.workers}
    maxconn 12000
    no strict-limits
    ssl-default-bind-options ssl-min-ver TLSv1.3
    {self.pipes}

defaults
    mode http
    timeout connect 5s
    timeout client {IDLE_SECONDS}s
    timeout server {IDLE_SECONDS}s
    timeout http-keep-alive {IDLE_SECONDS}s
    http-reuse always

frontend web
    bind {self.at('plain')}
    bind {self.at('tls')} ssl crt {setting.certificates.ecdsa.both} alpn h2,http/1.1
    bind {self.at('rsa')} ssl crt {setting.certificates.rsa.both} alpn h2,http/1.1
    default_backend origin

backend origin
    server origin {setting.http}

frontend pass
    mode tcp
    {self.splice}
    bind {self.at('pass')}
    bind {self.at(API)}
    tcp-request inspect-delay 5s
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
    use_backend raw if {{ req.ssl_sni -i {certs.PASS_NAME} }}

backend raw
    mode tcp
    {self.splice}
    server raw {setting.raw}
""")
        return [self.program, "-db", "-q", "-f", config]


class HaproxyDefaults(Haproxy):
    """HAProxy as it is without a word on pipes and splicing."""

    doors = [API]
    pipes = splice = ""


class Direct(Proxy):
    """Nothing in between: the client speaks to the source itself. Rate and latency are what the machine has, and there is no cost."""

    doors = [API]
    is_process = False

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.version = "no proxy"
        self.child = Absent()

    def at(self, door):
        return self.setting.raw

    def start(self):
        pass


class Absent:
    """The process of what has none."""

    def alive(self):
        return True

    def cpu(self):
        return self

    def since(self, _):
        return 0.0, 0.0, 0.0

    def stop(self):
        pass


class Pingora(Proxy):
    doors = ["tls", "rsa", "plain"]

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.version = "pingora 0.9, rustls, mimalloc, no work stealing"
        self.frugal = (self.program.with_name("bench-pingora-glibc"), "with glibc's allocator: mimalloc needs more")

    def prepare(self):
        ecdsa, rsa = self.setting.certificates.ecdsa, self.setting.certificates.rsa
        return [
            self.program, "--origin", self.setting.http, "--threads", self.setting.workers, "--plain", self.at("plain"),
            "--tls", self.at("tls"), ecdsa.certificate, ecdsa.key, "--tls", self.at("rsa"), rsa.certificate, rsa.key,
        ]

    def stop_signal(self):
        return signal.SIGINT


class Origins:
    """The lean origin behind all proxies: nginx for HTTP, the bench's own source for pass-through bytes."""

    def __init__(self, nginx, own, placement, http, raw):
        self.folder = OUT / "origin"
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "bulk").write_bytes(b"\0" * BULK_BODY)
        command = nginx_command(nginx, self.folder, 1, f"""
    keepalive_requests 1000000000;
    keepalive_timeout {IDLE_SECONDS}s;
    keepalive_time 24h;
    sendfile on;
    server {{
        listen {http} backlog=4096;
        location = /small {{ return 200 "{'x' * SMALL_BODY}"; }}
        location = /bulk {{ root {self.folder}; }}
        location = /served {{ stub_status; }}
    }}""")
        self.children = [
            Child(command, placement.origin, self.folder / "output.log"),
            Child([own, "source", "--listen", raw], placement.origin, self.folder / "source.log"),
        ]

    def start(self):
        for child in self.children:
            child.start()

    def stop(self):
        for child in self.children:
            child.stop()


def nginx_command(program, folder, workers, http, stream=("", "")):
    """Writes an nginx.conf that keeps every file below its folder; returns the command."""
    for name in ("body", "proxy", "fastcgi", "uwsgi", "scgi"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    modules, stream_block = stream
    user = f"user {pwd.getpwuid(os.getuid()).pw_name};\n" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(f"""{modules}{user}daemon off;
worker_processes {workers};
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 24000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;{http}
}}
{stream_block}""")
    return [program, "-p", folder, "-e", folder / "error.log", "-c", config]


def says(command):
    """The first line of what a program says about its version."""
    lines = output(command).strip().splitlines()
    return lines[0] if lines else None


def output(command):
    """What a program writes; nothing where it fails."""
    try:
        run = subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, timeout=10, env=environment(command[0])
        )
    except OSError:
        return ""
    return run.stdout + run.stderr if run.returncode == 0 else ""


def wait_until_served(proxy, patience=20):
    """Asks every door until it answers as it must: verified certificate, TLS 1.3, 200, the whole body."""
    end_at = time.monotonic() + patience
    for door in proxy.doors:
        while True:
            try:
                probe(proxy, door)
                break
            except (OSError, ValueError) as error:
                if not proxy.child.alive():
                    raise Unusable(f"it ended: {proxy.child.last_words()}") from error
                if time.monotonic() > end_at:
                    raise Unusable(f"its {door} door does not serve: {error}") from error
                time.sleep(0.05)


def probe(proxy, door):
    with socket.create_connection((proxy.address, proxy.setting.ports[door]), timeout=5) as plain:
        if door == "plain":
            return fetch(plain, proxy.at(door))
        if door in ("pass", API):
            return None
        if door == FORWARD:
            return probe_forward(plain, proxy)
        context = ssl.create_default_context(cafile=proxy.setting.certificates.authority)
        with context.wrap_socket(plain, server_hostname=proxy.address) as secured:
            if secured.version() != "TLSv1.3":
                raise ValueError(f"{secured.version()} instead of TLSv1.3")
            leaf = proxy.setting.certificates.rsa if door == "rsa" else proxy.setting.certificates.ecdsa
            if secured.getpeercert(True) != ssl.PEM_cert_to_DER_cert(leaf.certificate.read_text()):
                raise ValueError("another certificate was served")
            return fetch(secured, proxy.at(door))


def probe_forward(plain, proxy):
    """A request in absolute form, then the same through a tunnel."""
    http = proxy.setting.http
    fetch(plain, http, proxy.setting.small())
    with socket.create_connection((proxy.address, proxy.setting.ports[FORWARD]), timeout=5) as tunnel:
        tunnel.sendall(f"CONNECT {http} HTTP/1.1\r\nHost: {http}\r\n\r\n".encode())
        answer = tunnel.recv(65536)
        if not answered(answer) or not answer.endswith(b"\r\n\r\n"):
            raise ValueError(f"answered CONNECT with {answer.splitlines()[:1]}")
        fetch(tunnel, http)


def answered(head):
    """Whether it begins a 200; forward proxies may answer in HTTP/1.0."""
    return head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.0 200 "))


def fetch(connection, host, path="/small"):
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer or len(answer.split(b"\r\n\r\n", 1)[1]) < SMALL_BODY:
        more = connection.recv(65536)
        if not more:
            break
        answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    if not answered(head) or len(body) != SMALL_BODY:
        raise ValueError(f"answered {head.splitlines()[:1]} with {len(body)} bytes")


def free_ports():
    """One set of ports that is free on every address of the bench, below the ephemeral range."""
    for base in range(20440, 32000, 20):
        ports = {door: base + offset for offset, door in enumerate([*DOORS, FORWARD, "http", "raw", API])}
        if all(bindable(address, port) for address in [*ADDRESSES.values(), ORIGIN_ADDRESS] for port in ports.values()):
            return ports
    raise SystemExit("bench: no free ports on 127.91.0.0/16")


def bindable(address, port):
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
        except OSError:
            return False
    return True
