#!/usr/bin/env python3
"""Captures the ClientHellos of the TLS clients on this machine, for tests of our own parser.

    tools/capture-client-hellos.py > crates/durward-proxy/src/peek/client_hellos.txt

Each client connects to a socket on 127.0.0.1 that answers nothing. Comment lines name the versions of the programs. A line has the client, the server name it was asked to send
(`-` for none), its application protocols with commas between them (`-` for none), and the bytes in hexadecimal. Clients that are not
installed are left out.
"""
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap

NAME = "api.a.example"

JAVA = textwrap.dedent("""
    import java.util.List;
    import javax.net.ssl.*;
    public class Hello {
        public static void main(String[] a) throws Exception {
            SSLContext context = SSLContext.getDefault();
            SSLSocket socket = (SSLSocket) context.getSocketFactory().createSocket("127.0.0.1", Integer.parseInt(a[0]));
            SSLParameters parameters = socket.getSSLParameters();
            if (!a[1].equals("-")) parameters.setServerNames(List.of(new SNIHostName(a[1])));
            if (a.length > 2) parameters.setApplicationProtocols(a[2].split(","));
            if (a.length > 3) parameters.setProtocols(new String[] {a[3]});
            socket.setSSLParameters(parameters);
            socket.startHandshake();
        }
    }
""")

PYTHON = textwrap.dedent("""
    import socket, ssl, sys
    context = ssl.create_default_context()
    if len(sys.argv) > 3 and sys.argv[3]: context.set_alpn_protocols(sys.argv[3].split(","))
    if len(sys.argv) > 4: context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    name = None if sys.argv[2] == "-" else sys.argv[2]
    context.wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[1]))), server_hostname=name)
""")

NODE = textwrap.dedent("""
    const [port, name, alpn, max] = process.argv.slice(1);
    const options = {host: '127.0.0.1', port: Number(port)};
    if (name !== '-') options.servername = name;
    if (alpn) options.ALPNProtocols = alpn.split(',');
    if (max) options.maxVersion = max;
    require('tls').connect(options).on('error', () => {});
""")

GO = textwrap.dedent("""
    package main

    import (
        "crypto/tls"
        "os"
        "strings"
    )

    func main() {
        config := &tls.Config{ServerName: os.Args[2], InsecureSkipVerify: true}
        if len(os.Args) > 3 { config.NextProtos = strings.Split(os.Args[3], ",") }
        connection, err := tls.Dial("tcp", "127.0.0.1:"+os.Args[1], config)
        if err == nil { connection.Close() }
    }
""")

# Firefox knows the name as one of this host.
FIREFOX = f"""
user_pref("network.dns.localDomains", "{NAME}");
user_pref("network.proxy.type", 0);
user_pref("toolkit.telemetry.server", "");
user_pref("datareporting.policy.dataSubmissionEnabled", false);
"""

VERSIONS = [
    ["curl", "--version"], ["openssl", "version"], ["gnutls-cli", "--version"], ["wget", "--version"],
    ["kubectl", "version", "--client"], ["go", "version"], ["java", "--version"], [sys.executable, "--version"],
    [sys.executable, "-c", "import ssl; print('Python with', ssl.OPENSSL_VERSION)"], ["node", "--version"], ["socat", "-V"],
    ["chromium", "--version"], ["firefox-esr", "--version"],
]


def versions():
    """Yields the line in which each program tells its version."""
    for command in VERSIONS:
        if shutil.which(command[0]):
            told = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
            line = next((line for line in told if any(letter.isdigit() for letter in line)), "unknown")
            yield f"{os.path.basename(command[0])}: {line.strip()}"


def clients(java, port, go="go-hello", home="/tmp"):
    """Yields (title, name, protocols, command)."""
    url = f"https://{NAME}:{port}/"
    to = ["--connect-to", f"::127.0.0.1:{port}", "--max-time", "5", "-sk"]
    yield "curl, HTTP/2 and HTTP/1.1", NAME, "h2,http/1.1", ["curl", *to, url]
    yield "curl, HTTP/1.1", NAME, "http/1.1", ["curl", "--http1.1", *to, url]
    yield "curl, TLS 1.2", NAME, "h2,http/1.1", ["curl", "--tls-max", "1.2", *to, url]
    yield "curl, TLS 1.3 only", NAME, "h2,http/1.1", ["curl", "--tlsv1.3", *to, url]
    yield "curl, no ALPN", NAME, "-", ["curl", "--no-alpn", *to, url]
    yield "curl, to an address", "-", "h2,http/1.1", ["curl", "-sk", "--max-time", "5", f"https://127.0.0.1:{port}/"]
    s_client = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}"]
    yield "openssl s_client", NAME, "-", [*s_client, "-servername", NAME]
    yield "openssl s_client, no server name", "-", "-", [*s_client, "-noservername"]
    yield "openssl s_client, upper case", NAME, "-", [*s_client, "-servername", NAME.upper()]
    yield "openssl s_client, trailing dot", NAME, "-", [*s_client, "-servername", NAME + "."]
    yield "openssl s_client, TLS 1.2", NAME, "h2", [*s_client, "-servername", NAME, "-tls1_2", "-alpn", "h2"]
    yield "openssl s_client, the outer protocol", NAME, "durward-api/1", [
        *s_client, "-servername", NAME, "-tls1_3", "-alpn", "durward-api/1"]
    yield "openssl s_client, all groups and a request for status", NAME, "h2,http/1.1", [
        *s_client, "-servername", NAME, "-status", "-alpn", "h2,http/1.1", "-groups",
        "X25519:P-256:X448:P-521:P-384:ffdhe2048:ffdhe3072:ffdhe4096:ffdhe6144:ffdhe8192"]
    yield "openssl s_client, maximum fragment length", NAME, "-", [
        *s_client, "-servername", NAME, "-maxfraglen", "512"]
    wget = ["wget", "-q", "-O-", "-t1", "-T5", "--no-check-certificate", "--no-proxy"]
    yield "wget (GnuTLS), to an address", "-", "-", [*wget, f"https://127.0.0.1:{port}/"]
    yield "wget (GnuTLS)", "localhost", "-", [*wget, f"https://localhost:{port}/"]
    yield "wget (GnuTLS), TLS 1.2", "localhost", "-", [*wget, "--secure-protocol=TLSv1_2", f"https://localhost:{port}/"]
    kubectl = ["kubectl", "get", "--raw", "/version", "--request-timeout=5s", f"--server=https://127.0.0.1:{port}"]
    yield "kubectl (Go)", NAME, "h2,http/1.1", [*kubectl, f"--tls-server-name={NAME}", "--insecure-skip-tls-verify=true"]
    yield "kubectl (Go), to an address", "-", "h2,http/1.1", [*kubectl, "--insecure-skip-tls-verify=true"]
    yield "Java", NAME, "-", [*java, str(port), NAME]
    yield "Java, ALPN", NAME, "h2,http/1.1", [*java, str(port), NAME, "h2,http/1.1"]
    yield "Java, TLS 1.2", NAME, "http/1.1", [*java, str(port), NAME, "http/1.1", "TLSv1.2"]
    yield "Java, no server name", "-", "-", [*java, str(port), "-"]
    python = [sys.executable, "-c", PYTHON, str(port)]
    yield "Python", NAME, "-", [*python, NAME]
    yield "Python, ALPN", NAME, "h2,http/1.1", [*python, NAME, "h2,http/1.1"]
    yield "Python, TLS 1.2", NAME, "-", [*python, NAME, "", "1.2"]
    yield "Python, no server name", "-", "-", [*python, "-"]
    node = ["node", "-e", NODE, str(port)]
    yield "Node.js", NAME, "-", [*node, NAME]
    yield "Node.js, ALPN", NAME, "h2,http/1.1", [*node, NAME, "h2,http/1.1"]
    yield "Node.js, TLS 1.2", NAME, "http/1.1", [*node, NAME, "http/1.1", "TLSv1.2"]
    gnutls = ["gnutls-cli", "--insecure", "--no-ca-verification", "-p", str(port), "127.0.0.1"]
    yield "gnutls-cli", NAME, "-", [*gnutls, f"--sni-hostname={NAME}"]
    yield "gnutls-cli, ALPN", NAME, "h2,http/1.1", [*gnutls, f"--sni-hostname={NAME}", "--alpn=h2", "--alpn=http/1.1"]
    yield "Go", NAME, "-", [go, str(port), NAME]
    yield "Go, ALPN", NAME, "h2,http/1.1", [go, str(port), NAME, "h2,http/1.1"]
    chromium = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        f"--host-resolver-rules=MAP {NAME} 127.0.0.1"]
    yield "Chromium", NAME, "h2,http/1.1", [*chromium, f"--user-data-dir={home}/chromium", url]
    yield "Firefox", NAME, "h2,http/1.1", ["firefox-esr", "--headless", "--no-remote", "--profile", f"{home}/firefox", url]
    yield "socat (OpenSSL)", NAME, "-", ["socat", "-T5", "-", f"OPENSSL:127.0.0.1:{port},verify=0,snihost={NAME}"]


def length(data):
    """The length of the ClientHello at the start of the bytes, on the wire; None while it is not all there."""
    message, at = b"", 0
    while len(message) < 4 or len(message) < 4 + int.from_bytes(message[1:4], "big"):
        if len(data) < at + 5:
            return None
        end = at + 5 + int.from_bytes(data[at + 3:at + 5], "big")
        if len(data) < end:
            return None
        message, at = message + data[at + 5:end], end
    return at


def capture(command, listener):
    client = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        listener.settimeout(60)
        peer, _ = listener.accept()
        peer.settimeout(30)
        data = b""
        while length(data) is None:
            more = peer.recv(65536)
            if not more:
                return None
            data += more
        peer.close()
        return data[:length(data)]
    except TimeoutError:
        return None
    finally:
        # A browser is many processes.
        os.killpg(client.pid, signal.SIGKILL)
        client.wait()


def main():
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        source = directory + "/Hello.java"
        with open(source, "w") as file:
            file.write(JAVA)
        with open(directory + "/hello.go", "w") as file:
            file.write(GO)
        go = directory + "/go-hello"
        if shutil.which("go"):
            environment = {**os.environ, "GOCACHE": directory + "/go-cache", "GO111MODULE": "off"}
            subprocess.run(["go", "build", "-o", go, directory + "/hello.go"], check=True, env=environment)
        os.mkdir(directory + "/firefox")
        with open(directory + "/firefox/user.js", "w") as file:
            file.write(FIREFOX)
        print("# ClientHellos of real programs: client | server name | application protocols | bytes.")
        print("# Made by tools/capture-client-hellos.py.")
        for version in versions():
            print(f"# {version}")
        number = len(list(clients([], 0)))
        for at in range(number):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                title, name, protocols, command = list(clients(["java", source], listener.getsockname()[1], go, directory))[at]
                if not shutil.which(command[0]):
                    continue
                data = capture(command, listener)
                if data is None:
                    print(f"no ClientHello of {title}", file=sys.stderr)
                    continue
                print(f"{title} | {name} | {protocols} | {data.hex()}")


main()
