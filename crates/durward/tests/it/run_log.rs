//! What a running gateway says on standard error.
//!
//! Deliberately absent: the access log, which is tested with the admin interface.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use durward_testkit::certificates::{Authority, CertSpec};
use durward_testkit::client::client_hello::ClientHello;
use durward_testkit::process::{TempDir, eventually_blocking, unique_loopback};

use crate::support::{DEADLINE, admin_address, nowhere, spawn, status, tenant};

#[test]
fn clients_cannot_fill_it() {
    let (dir, admin) = (TempDir::new(), admin_address());
    let address = SocketAddr::new(unique_loopback().into(), 8443);
    let authority = Authority::new("servers");
    authority.issue(&CertSpec::new().ip(address.ip()).server()).write(dir.path(), "tls");
    let document = tenant("acme", address.ip(), address.port(), nowhere());
    dir.write(
        "acme.yaml",
        document.replace("protocol: HTTP", "protocol: HTTPS, certificate: {file: tls}"),
    );
    let child = spawn(dir.path(), admin, &[]);
    // The last line of a start.
    child.wait_for_line_blocking("admin interface", DEADLINE);
    assert!(eventually_blocking(DEADLINE, || status(admin, "/readyz") == Some(200)));
    let before = child.lines().len();

    let hello = ClientHello::new().tls13().server_name(address.ip().to_string()).encode();
    for bytes in [&hello[..], b"\x16\x03\x01\x00\x05junk!", b"GET / HTTP/1.1\r\n\r\n"] {
        for _ in 0..20 {
            let mut client = TcpStream::connect(address).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            client.write_all(bytes).unwrap();
            // Whatever it answers, it has looked at the bytes by then.
            let _ = client.read(&mut [0; 16]);
        }
    }

    let said = child.lines().split_off(before);
    assert!(said.is_empty(), "{}", said.join("\n"));
}
