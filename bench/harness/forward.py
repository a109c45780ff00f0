"""The forward proxies that are compared: Squid and tinyproxy, one configuration each, all below bench/out.

They have one door, where absolute-form requests and CONNECT come in; neither caches nor writes an access log.
"""

import os
import resource
from pathlib import Path

from harness.proxies import FORWARD, IDLE_SECONDS, Proxy, Unusable, says
from harness.tools import DEBS, environment, find

MAX_CLIENTS = 12_000


class Squid(Proxy):
    doors = [FORWARD]

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.version = says([self.program, "-v"])

    def prepare(self):
        # a pid file that a killed process left would keep the next from starting
        (self.folder / "squid.pid").unlink(missing_ok=True)
        base = DEBS if DEBS in Path(self.program).parents else Path("/")
        share = base / "usr/share/squid"
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
        config = self.folder / "squid.conf"
        config.write_text(f"""http_port {self.at(FORWARD)}
http_access allow all
cache deny all
cache_mem 0 MB
memory_cache_mode disk
workers {self.setting.workers}
max_filedescriptors {files}
access_log none
cache_store_log none
cache_log {self.folder}/cache.log
logfile_rotate 0
pid_filename {self.folder}/squid.pid
coredump_dir {self.folder}
netdb_filename none
pinger_enable off
client_db off
via off
forwarded_for delete
dns_nameservers 127.91.0.53
visible_hostname bench.test
unlinkd_program {base}/usr/lib/squid/unlinkd
logfile_daemon {base}/usr/lib/squid/log_file_daemon
mime_table {share}/mime.conf
icon_directory {share}/icons
error_directory {base}/usr/share/squid-langpack/English
err_page_stylesheet none
server_persistent_connections on
client_persistent_connections on
client_idle_pconn_timeout {IDLE_SECONDS} seconds
server_idle_pconn_timeout {IDLE_SECONDS} seconds
read_timeout {IDLE_SECONDS} seconds
shutdown_lifetime 0 seconds
""")
        return [*not_as_root(), self.program, "-N", "-n", "bench", "-f", config]

    def env(self):
        # what is started may be unshare, which needs no unpacked libraries
        return environment(self.program)


def not_as_root():
    """Squid refuses to be root and would become another user, who may not write here; so root is renamed for it."""
    if os.geteuid() != 0:
        return []
    unshare = find("unshare")
    if unshare is None:
        raise Unusable("it does not run as root, and there is no unshare to rename root")
    return [unshare, "--user", "--map-user=65534", "--map-group=65534"]


class Tinyproxy(Proxy):
    doors = [FORWARD]
    keeps_connections = False

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.version = says([self.program, "-v"])

    def prepare(self):
        config = self.folder / "tinyproxy.conf"
        config.write_text(f"""Listen {self.address}
Port {self.setting.ports[FORWARD]}
Timeout {IDLE_SECONDS}
MaxClients {MAX_CLIENTS}
LogFile "{self.folder}/tinyproxy.log"
LogLevel Critical
PidFile "{self.folder}/tinyproxy.pid"
DisableViaHeader Yes
""")
        return [self.program, "-d", "-c", config]
