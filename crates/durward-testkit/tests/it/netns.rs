//! Namespaces made without root carry real addresses and keep the host out.
//! Each test here runs a second time inside; see `in_namespace`.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::panic::catch_unwind;
use std::process::Command;
use std::time::Duration;

use durward_testkit::client::{RawHttp, tcp_connect};
use durward_testkit::netns::{
    Namespace, add_address, in_namespace, in_namespace_async, ip, sysctl, veth,
};
use durward_testkit::origin::{Origin, TcpEcho};
use durward_testkit::process::Child;

const DOOR: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
const EGRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2));

#[test]
fn two_namespaces_see_each_others_addresses() {
    in_namespace_async("netns::two_namespaces_see_each_others_addresses", async || {
        let [client, partner] = [Namespace::new(), Namespace::new()];
        client.veth("c0", "p0", &partner);
        client.add_address("c0", "198.51.100.2/32");
        client.add_address("c0", "203.0.113.2/32");
        partner.add_address("p0", "192.0.2.1/32");
        client.add_route("192.0.2.1", "dev c0");
        partner.add_route("default", "dev p0");

        let origin = partner.run(|| Origin::http1("192.0.2.1:0"));
        let address = origin.address();
        let seen = client.block_on(move || async move {
            let mut seen = Vec::new();
            for source in [DOOR, EGRESS] {
                let mut http = RawHttp::connect_from(source, address).await.unwrap();
                seen.push(http.get("partner", "/").await.unwrap().echo().peer.ip());
            }
            seen
        });
        let from_here = TcpStream::connect_timeout(&address, Duration::from_millis(200));

        assert_eq!(seen, [DOOR, EGRESS]);
        assert_eq!(origin.peers().iter().map(SocketAddr::ip).collect::<Vec<_>>(), [DOOR, EGRESS]);
        assert!(from_here.is_err(), "the first namespace is joined with neither");
    });
}

#[test]
fn the_first_namespace_can_be_joined_too_and_speaks_ipv6() {
    in_namespace_async(
        "netns::the_first_namespace_can_be_joined_too_and_speaks_ipv6",
        async || {
            let partner = Namespace::new();
            veth("d0", "p0", &partner);
            add_address("d0", "2001:db8::2/64");
            partner.add_address("p0", "2001:db8::1/64");

            let echo = partner.run(|| TcpEcho::start("[2001:db8::1]:0"));
            let stream =
                tcp_connect(echo.address(), Some("2001:db8::2".parse().unwrap())).await.unwrap();

            assert_eq!(stream.peer_addr().unwrap(), echo.address());
            let here = ip("-brief address show dev d0");
            assert!(here.contains("2001:db8::2/64"), "{here}");
        },
    );
}

#[test]
fn threads_and_processes_stay_where_they_were_started() {
    in_namespace("netns::threads_and_processes_stay_where_they_were_started", || {
        let other = Namespace::new();
        other.add_address("lo", "198.51.100.2/32");

        let thread = other.spawn(|| {
            let listener = TcpListener::bind((DOOR, 0)).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut accepted, _) = listener.accept().unwrap();
            accepted.write_all(b"x").unwrap();
            let mut byte = [0];
            (&client).read_exact(&mut byte).unwrap();
            byte
        });
        let mut child = other.run(|| {
            let mut command = Command::new("ip");
            command.args(["-brief", "address"]);
            Child::spawn(command)
        });
        child.wait_blocking(Duration::from_secs(10));

        assert_eq!(thread.join().unwrap(), *b"x");
        assert!(child.output().contains("198.51.100.2"), "{}", child.output());
        assert!(
            TcpListener::bind((DOOR, 0)).is_err(),
            "the address belongs to the other namespace"
        );
    });
}

#[test]
fn a_namespace_in_the_middle_forwards() {
    in_namespace_async("netns::a_namespace_in_the_middle_forwards", async || {
        let [client, server] = [Namespace::new(), Namespace::new()];
        veth("m0", "c0", &client);
        veth("m1", "s0", &server);
        add_address("m0", "192.0.2.254/24");
        add_address("m1", "198.51.100.254/24");
        client.add_address("c0", "192.0.2.9/24");
        server.add_address("s0", "198.51.100.2/24");
        client.add_route("default", "192.0.2.254");
        server.add_route("default", "198.51.100.254");
        sysctl("net.ipv4.ip_forward", "1");

        let origin = server.run(|| Origin::http1((DOOR, 0)));
        let address = origin.address();
        let echo = client.block_on(move || async move {
            RawHttp::connect(address).await.unwrap().get("x", "/").await.unwrap().echo()
        });

        assert_eq!(echo.peer.ip(), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9)));
    });
}

#[test]
fn a_failure_inside_is_a_failure_outside() {
    let name = "netns::a_failure_inside_is_a_failure_outside";
    if std::env::var_os("DURWARD_TESTKIT_INSIDE").is_some() {
        // Not a panic: a green run prints no test that failed.
        in_namespace(name, || {
            eprintln!("said inside");
            std::process::exit(101);
        });
    }
    let outcome = catch_unwind(|| in_namespace(name, || ()));

    if durward_testkit::netns::possible().is_ok() {
        let message = outcome.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("said inside"), "{message}");
    }
}

#[test]
fn a_wrong_name_is_a_failure_and_not_a_silent_success() {
    let outcome = catch_unwind(|| in_namespace("netns::no_such_test", || ()));

    if durward_testkit::netns::possible().is_ok() {
        let message = outcome.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("is not the name of a test"), "{message}");
    }
}

#[test]
fn the_host_is_not_changed_by_a_slip() {
    assert!(catch_unwind(|| ip("link show")).is_err());
    assert!(catch_unwind(Namespace::new).is_err());
    assert!(catch_unwind(|| sysctl("net.ipv4.ip_forward", "1")).is_err());
}
