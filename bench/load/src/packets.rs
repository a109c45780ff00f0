//! Packets and connections through a gateway, and what the sending thread's processor time says each of them cost.
//! All hops are in namespaces of one machine, so the kernel carries a packet to its end within the sender's time. Nothing is received here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::net::sockopt::set_socket_linger;
use rustix::net::{AddressFamily, SendFlags, SocketType, bind, connect, ipproto, sendto, socket};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::{Options, json_string};

/// Header and payload: 46 bytes with the IP header.
const LENGTH: u16 = 26;
/// Before anything is measured: the connection exists, neighbours and caches are known.
const WARM: usize = 200;
/// The first source port of a new flow; below it is that of the established one.
const FIRST_PORT: u16 = 2_000;

/// Sends what was asked for and prints one JSON line with nanoseconds for each.
pub fn run(options: &Options) -> Result<(), String> {
    pin(options.number("cpu")?)?;
    let target = options.documentation("target")?;
    let (IpAddr::V4(source), IpAddr::V4(to)) = (options.documentation("source")?.ip(), target.ip())
    else {
        return Err("packets are of IPv4".to_owned());
    };
    let (established, new) = (options.number("established")?, options.number("new")?);
    if new > usize::from(u16::MAX - FIRST_PORT) {
        return Err(format!("--new {new}: a source has not so many ports"));
    }
    let line = Line::open(source, SocketAddrV4::new(to, target.port()))?;
    line.send(std::iter::repeat_n(1, WARM))?;
    let old_ns = line.send(std::iter::repeat_n(1, established))?;
    let new_ns = line.send((0..new).map(|at| FIRST_PORT + at as u16))?;
    let (connection_ns, error) = connections(source, target, options.number("connections")?);
    println!(
        "{{\"packets\":{},\"established_ns\":{old_ns:.1},\"new_ns\":{new_ns:.1},\"connection_ns\":{connection_ns:.1},\"error\":{}}}",
        WARM + established + new,
        error.map_or_else(|| "null".to_owned(), |text| json_string(&text)),
    );
    Ok(())
}

fn pin(cpu: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|error| format!("CPU {cpu}: {error}"))
}

/// Nanoseconds of this thread so far.
fn spent() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// A raw socket that writes its own UDP headers.
struct Line {
    socket: OwnedFd,
    to: SocketAddrV4,
}

impl Line {
    fn open(source: Ipv4Addr, to: SocketAddrV4) -> Result<Self, String> {
        let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::UDP))
            .map_err(|error| format!("a raw socket: {error}"))?;
        bind(&socket, &SocketAddrV4::new(source, 0))
            .map_err(|error| format!("binding {source}: {error}"))?;
        Ok(Self { socket, to })
    }

    /// One packet from each of these ports; nanoseconds for each.
    fn send(&self, ports: impl ExactSizeIterator<Item = u16>) -> Result<f64, String> {
        let mut packet = [0u8; LENGTH as usize];
        packet[2..4].copy_from_slice(&self.to.port().to_be_bytes());
        packet[4..6].copy_from_slice(&LENGTH.to_be_bytes());
        let to = SocketAddrV4::new(*self.to.ip(), 0);
        let (begin, count) = (spent(), ports.len());
        for port in ports {
            packet[..2].copy_from_slice(&port.to_be_bytes());
            sendto(&self.socket, &packet, SendFlags::empty(), &to)
                .map_err(|error| format!("sending to {to}: {error}"))?;
        }
        Ok(if count == 0 { 0.0 } else { (spent() - begin) / count as f64 })
    }
}

/// Connects and resets, one after the other: nanoseconds for each that succeeded, and the first error.
fn connections(source: Ipv4Addr, to: SocketAddr, count: usize) -> (f64, Option<String>) {
    let (mut all, mut done, mut first) = (0.0, 0.0, None);
    for _ in 0..count {
        let begin = spent();
        match connection(source, to) {
            Ok(()) => {
                all += spent() - begin;
                done += 1.0;
            }
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    (if done > 0.0 { all / done } else { 0.0 }, first)
}

/// Closing with a reset leaves nothing waiting at either end.
fn connection(source: Ipv4Addr, to: SocketAddr) -> Result<(), String> {
    let said = |error: rustix::io::Errno| format!("connecting to {to}: {error}");
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).map_err(said)?;
    bind(&socket, &SocketAddrV4::new(source, 0)).map_err(said)?;
    set_socket_linger(&socket, Some(std::time::Duration::ZERO)).map_err(said)?;
    connect(&socket, &to).map_err(said)
}

/// What stands behind the gateway: takes connections and drops them, and never reads its datagrams, which the kernel then drops.
pub fn pod(options: &Options) -> Result<(), String> {
    let port = options.number("port")? as u16;
    let any = SocketAddr::from(([0, 0, 0, 0], port));
    let said = |error: std::io::Error| format!("listening at {any}: {error}");
    let _unread = std::net::UdpSocket::bind(any).map_err(said)?;
    let listener = std::net::TcpListener::bind(any).map_err(said)?;
    println!("ready");
    loop {
        drop(listener.accept());
    }
}
