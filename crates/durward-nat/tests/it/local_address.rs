//! Addresses on a dummy device.

use std::net::{IpAddr, TcpListener, TcpStream};

use durward_nat::local_address::{DeviceFault, ensure, remove};
use durward_testkit::netns::{in_namespace, ip};

// S4.71+
#[test]
fn an_address_on_a_dummy_device_is_this_hosts_and_stays_after_a_second_start() {
    in_namespace(
        "local_address::an_address_on_a_dummy_device_is_this_hosts_and_stays_after_a_second_start",
        || {
            let addresses: [IpAddr; 2] =
                ["172.31.255.1".parse().unwrap(), "fd00:d::1".parse().unwrap()];

            ensure("durward-api", &addresses).unwrap();
            ensure("durward-api", &addresses).unwrap();

            for address in addresses {
                let listener = TcpListener::bind((address, 6443)).unwrap();
                let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                assert_eq!(client.local_addr().unwrap().ip(), address);
            }
            let shown = ip("-d addr show dev durward-api");
            assert_eq!(shown.matches("172.31.255.1/32").count(), 1, "{shown}");
            assert!(shown.contains("fd00:d::1/128"), "{shown}");

            // A bridge of somebody else is not taken.
            ip("link add docker0 type bridge");
            let foreign = ensure("docker0", &addresses);
            assert!(matches!(foreign, Err(DeviceFault::NotDummy { .. })), "{foreign:?}");
            remove("durward-api").unwrap();
            remove("durward-api").unwrap();
            assert!(TcpListener::bind((addresses[0], 6443)).is_err());
        },
    );
}

#[test]
fn a_device_of_another_kind_is_left_alone() {
    in_namespace("local_address::a_device_of_another_kind_is_left_alone", || {
        let address = ["172.31.255.1".parse().unwrap()];

        assert!(matches!(ensure("lo", &address), Err(DeviceFault::NotDummy { .. })));
        assert!(matches!(remove("lo"), Err(DeviceFault::NotDummy { .. })));
        assert!(matches!(ensure("a name", &address), Err(DeviceFault::Name { .. })));
        assert!(!ip("addr show dev lo").contains("172.31.255.1"));
    });
}
