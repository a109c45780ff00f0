"""Certificates of the bench, made by the openssl program below bench/out: one CA, an ECDSA and an RSA leaf."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.tools import OUT

PASS_NAME = "pass.bench.test"


@dataclass
class Leaf:
    """A server certificate: certificate and key, and both in one file as HAProxy wants them."""

    certificate: Path
    key: Path
    both: Path


@dataclass
class Certificates:
    authority: Path
    ecdsa: Leaf
    rsa: Leaf


def make(addresses):
    """Makes all certificates anew, valid for the addresses and for two days."""
    folder = OUT / "certs"
    folder.mkdir(parents=True, exist_ok=True)
    authority, key = folder / "ca.crt", folder / "ca.key"
    openssl(
        "req", "-x509", *new_key("ecdsa"), "-nodes", "-keyout", key, "-out", authority, "-days", "2",
        "-subj", "/CN=bench CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )
    names = ",".join([f"IP:{address}" for address in addresses] + ["DNS:bench.test", f"DNS:{PASS_NAME}"])
    extensions = folder / "leaf.ext"
    extensions.write_text(
        "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
        f"extendedKeyUsage=serverAuth\nsubjectAltName={names}\n"
    )
    return Certificates(
        authority, leaf(folder, "ecdsa", authority, key, extensions), leaf(folder, "rsa", authority, key, extensions)
    )


def leaf(folder, kind, authority, authority_key, extensions):
    made = Leaf(folder / f"{kind}.crt", folder / f"{kind}.key", folder / f"{kind}.pem")
    request = folder / f"{kind}.csr"
    openssl("req", "-new", *new_key(kind), "-nodes", "-keyout", made.key, "-out", request, "-subj", f"/CN=bench {kind}")
    openssl(
        "x509", "-req", "-in", request, "-CA", authority, "-CAkey", authority_key, "-CAcreateserial",
        "-out", made.certificate, "-days", "2", "-extfile", extensions,
    )
    made.both.write_text(made.certificate.read_text() + made.key.read_text())
    made.both.chmod(0o600)
    return made


def new_key(kind):
    if kind == "rsa":
        return ["-newkey", "rsa:2048"]
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]


def openssl(*words):
    run = subprocess.run(["openssl", *[str(word) for word in words]], capture_output=True, text=True, timeout=60)
    if run.returncode != 0:
        raise SystemExit(f"bench: openssl {words[0]} failed: {run.stderr.strip()}")
