"""Finds the programs the bench needs, or unpacks their Debian packages below bench/out.

Nothing is installed: packages are downloaded and unpacked, so no service starts and nothing under /etc changes.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
ROOT = BENCH.parent
OUT = BENCH / "out"
DEBS = OUT / "debs"

# program -> the Debian package that carries it
PACKAGES = {
    "nginx": "nginx",
    "haproxy": "haproxy",
    "wrk": "wrk",
    "h2load": "nghttp2-client",
    "cmake": "cmake",
    "squid": "squid",
    "tinyproxy": "tinyproxy-bin",
    "xtables-legacy-multi": "iptables",
    "xtables-nft-multi": "iptables",
    "ipset": "ipset",
}
STREAM_MODULE = "ngx_stream_module.so"


def note(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


class Tools:
    """Paths of programs, and why a program is missing."""

    def __init__(self, allow_download=True):
        self.allow_download = allow_download
        self.missing = {}
        self._found = {}

    def path(self, program):
        """The program's absolute path, or None (the reason is then in `missing`)."""
        if program in self.missing:
            return None
        if program not in self._found:
            found = find(program)
            if found is None and self.allow_download and program in PACKAGES:
                reason = unpack([PACKAGES[program]])
                found = find(program)
                if found is None:
                    self.missing[program] = reason or f"package {PACKAGES[program]} has no {program}"
                    return None
            if found is None:
                self.missing[program] = "not found"
                return None
            self._found[program] = found
        return self._found[program]

    def stream_module(self):
        """nginx's stream module with ssl_preread, or None."""
        for folder in (Path("/usr/lib/nginx/modules"), DEBS / "usr/lib/nginx/modules"):
            if (folder / STREAM_MODULE).exists():
                return folder / STREAM_MODULE
        if self.allow_download and "stream" not in self.missing:
            reason = unpack(["libnginx-mod-stream"])
            if (DEBS / "usr/lib/nginx/modules" / STREAM_MODULE).exists():
                return DEBS / "usr/lib/nginx/modules" / STREAM_MODULE
            self.missing["stream"] = reason or "module not in the package"
        return None


def find(program):
    """Looks in PATH, the usual sbin folders, and what was unpacked before."""
    system = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    found = shutil.which(program, path=system)
    if found:
        return Path(found)
    unpacked = ":".join(str(DEBS / folder) for folder in ("usr/sbin", "usr/bin", "sbin"))
    found = shutil.which(program, path=unpacked)
    return Path(found) if found else None


def environment(program=None):
    """The environment for a child; unpacked programs also need their unpacked libraries."""
    env = dict(os.environ, LC_ALL="C")
    if program and DEBS in Path(program).parents:
        libraries = [str(p) for p in DEBS.glob("usr/lib/*-linux-gnu*")] + [str(DEBS / "usr/lib")]
        env["LD_LIBRARY_PATH"] = ":".join(libraries + [env.get("LD_LIBRARY_PATH", "")]).rstrip(":")
    return env


def unpack(packages):
    """Downloads packages with what they need and unpacks them; returns why not, or None."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return "not found, and this is no Debian where it could be unpacked from a package"
    wanted = closure(packages)
    if wanted is None and os.geteuid() == 0:
        note("refreshing the package lists (apt-get update)")
        quiet(["apt-get", "update"])
        wanted = closure(packages)
    if wanted is None:
        return f"apt-get knows no package {' '.join(packages)} (are the package lists present?)"
    note(f"unpacking {' '.join(wanted)} into {DEBS.relative_to(ROOT)}")
    cache = OUT / "debs.cache"
    cache.mkdir(parents=True, exist_ok=True)
    error = quiet(["apt-get", "download", *wanted], cwd=cache)
    if error:
        return f"apt-get download failed: {error}"
    for archive in sorted(cache.glob("*.deb")):
        error = quiet(["dpkg-deb", "-x", str(archive), str(DEBS)])
        if error:
            return f"dpkg-deb -x {archive.name} failed: {error}"
        archive.unlink()
    return None


def closure(packages):
    """The packages and their missing dependencies, as apt would install them; None when unknown."""
    run = subprocess.run(
        ["apt-get", "install", "-s", "--no-install-recommends", *packages],
        env=environment(), capture_output=True, text=True, timeout=120,
    )
    if run.returncode != 0:
        return None
    names = [line.split()[1] for line in run.stdout.splitlines() if line.startswith("Inst ")]
    return names or packages


def quiet(command, cwd=None):
    """Runs a command; returns the last line of its complaint, or None."""
    run = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=600)
    if run.returncode == 0:
        return None
    return (run.stderr.strip() or run.stdout.strip() or f"status {run.returncode}").splitlines()[-1]


def cargo_build(folder, tools, needs_cmake=False):
    """Builds a crate of the bench in its own target folder; returns (binary, why not)."""
    binary = folder / "target" / "release" / f"bench-{folder.name}"
    if not shutil.which("cargo"):
        return (binary, None) if binary.exists() else (None, "cargo not found")
    env = environment()
    if needs_cmake:
        cmake = tools.path("cmake")
        if cmake is None:
            return None, f"needs cmake: {tools.missing['cmake']}"
        env["CMAKE"] = str(cmake)
        env["PATH"] = f"{cmake.parent}:{env['PATH']}"
        if DEBS in cmake.parents:
            env["LD_LIBRARY_PATH"] = environment(cmake)["LD_LIBRARY_PATH"]
    env["CARGO_TARGET_DIR"] = str(folder / "target")
    log = OUT / f"build-{folder.name}.log"
    note(f"building bench/{folder.name} (log: {log.relative_to(ROOT)})")
    with open(log, "w") as sink:
        run = subprocess.run(["cargo", "build", "--release", "--locked"], cwd=folder, env=env, stdout=sink, stderr=sink)
    if run.returncode != 0:
        return None, f"cargo build failed, see {log.relative_to(ROOT)}"
    return binary, None
