#!/usr/bin/env python3
"""Lints and renders the Helm chart with Helm's own engine, for machines without a `helm` binary.

Usage: python3 tools/helm-render.py CHART VALUES.json          (needs `pip install -r tools/deploy-requirements.txt`, Python 3.12 or newer)

The package can install but not merely render, so the chart is installed into an API server that exists for this run only, on
127.0.0.1: it knows the kinds a chart may use and keeps nothing. What Helm sends is printed as one JSON object per line.
"""

import asyncio
import json
import re
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RESOURCES = {
    "v1": [("services", "Service"), ("configmaps", "ConfigMap"), ("secrets", "Secret"), ("serviceaccounts", "ServiceAccount"), ("namespaces", "Namespace"), ("persistentvolumeclaims", "PersistentVolumeClaim")],
    "apps/v1": [("deployments", "Deployment")],
    "policy/v1": [("poddisruptionbudgets", "PodDisruptionBudget")],
    "autoscaling/v2": [("horizontalpodautoscalers", "HorizontalPodAutoscaler")],
    "networking.k8s.io/v1": [("networkpolicies", "NetworkPolicy")],
    "rbac.authorization.k8s.io/v1": [("clusterroles", "ClusterRole"), ("clusterrolebindings", "ClusterRoleBinding"), ("roles", "Role"), ("rolebindings", "RoleBinding")],
}
CLUSTER = {"Namespace", "ClusterRole", "ClusterRoleBinding"}
received = []


def discovery(path):
    if path == "/version":
        return {"major": "1", "minor": "25", "gitVersion": "v1.25.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        versions = [name for name in RESOURCES if "/" in name]
        entry = lambda name: {"groupVersion": name, "version": name.split("/")[1]}
        groups = [{"name": name.split("/")[0], "versions": [entry(name)], "preferredVersion": entry(name)} for name in versions]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    version = re.sub(r"^/apis?/", "", path)
    if version in RESOURCES:
        verbs = ["create", "get", "list", "patch"]
        kinds = [{"name": plural, "kind": kind, "namespaced": kind not in CLUSTER, "verbs": verbs} for plural, kind in RESOURCES[version]]
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": kinds}
    return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, value):
        self.answer_bytes(status, json.dumps(value).encode(), "application/json")

    def answer_bytes(self, status, body, kind):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0].rstrip("/")
        known = discovery(path)
        if known is not None:
            return self.answer(200, known)
        if path.endswith("/secrets"):
            return self.answer(200, {"kind": "SecretList", "apiVersion": "v1", "metadata": {}, "items": []})
        self.answer(404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404})

    def receive(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = self.headers.get("Content-Type", "")
        # Helm's own record of the release is a Secret in protobuf; the chart's objects are JSON.
        if "json" in kind:
            received.append(json.loads(body))
        self.answer_bytes(201, body, kind)

    do_POST = do_PUT = do_PATCH = receive


async def render(chart, values, kubeconfig):
    from helm_sdkpy import Configuration, Install, Lint

    config = Configuration(namespace="durward", kubeconfig=kubeconfig)
    lint = await Lint(config).run(chart)
    await Install(config).run("edge", chart, values=values, wait=False, timeout=30)
    return lint


def main():
    chart, values = sys.argv[1], json.load(open(sys.argv[2]))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    context = {"name": "here", "context": {"cluster": "here", "user": "here"}}
    cluster = {"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
    kubeconfig = {"apiVersion": "v1", "kind": "Config", "current-context": "here", "contexts": [context], "clusters": [cluster], "users": [{"name": "here", "user": {}}]}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(kubeconfig, file)
        file.flush()
        lint = asyncio.run(render(chart, values, file.name))
    print(json.dumps(lint), file=sys.stderr)
    for value in received:
        print(json.dumps(value))


main()
