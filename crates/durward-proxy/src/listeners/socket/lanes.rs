//! Lanes: several listening sockets per core, among which the kernel chooses by the client's address.
//!
//! Connections wait for `accept` in the order of their arrival, so who opens them faster than they can be accepted makes all others at that socket wait. Where nothing but the first bytes
//! tells whose a connection is, a tenant is not protected by an address of its own: there each lane has an accept queue and turns of its own, and only clients whose address
//! happens to share the flood's lane wait for it. The choice depends on a secret of the process, so nobody can aim at a lane.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::AsFd;

use super::option;

/// Multipliers of the hash: odd, with bits in all places.
const MIX: [u32; 3] = [0x9e37_79b1, 0x85eb_ca77, 0xc2b2_ae3d];

/// Offset of the network header in a program's loads.
const NETWORK: u32 = libc::SKF_NET_OFF as u32;

/// Makes the kernel choose among the sockets of `socket`'s group, of which each core has one per lane. Connections of one IPv4 address or IPv6 /64 come to one lane; their ports spread them
/// over the cores. Sockets beyond `lanes` × `cores` are not chosen.
pub(in crate::listeners) fn choose_by_source(
    socket: &impl AsFd,
    lanes: usize,
    cores: usize,
) -> io::Result<()> {
    let secret = RandomState::new().hash_one(0) as u32;
    option::set_chooser(socket, &program(lanes as u32, cores as u32, secret))
}

/// Returns the program. It is run with the packet of a new connection.
fn program(lanes: u32, cores: u32, secret: u32) -> Vec<libc::sock_filter> {
    // Scratch memory: the hash of the source, and then its lane; the port.
    const SOURCE: u32 = 0;
    const PORT: u32 = 1;
    let mut program = vec![
        load(libc::BPF_B, NETWORK),
        alu(libc::BPF_RSH, 4),
        jump(6, 5, 0),
        // IPv4: the source address; the port behind a header without options. With options another word stands for it, which is as good.
        load(libc::BPF_W, NETWORK + 12),
        store(SOURCE),
        load(libc::BPF_H, NETWORK + 20),
        store(PORT),
        always(7),
        // IPv6: the first half of the source address.
        load(libc::BPF_W, NETWORK + 8),
        alu(libc::BPF_MUL, MIX[2]),
        plain(libc::BPF_MISC | libc::BPF_TAX),
        load(libc::BPF_W, NETWORK + 12),
        with_index(libc::BPF_XOR),
        store(SOURCE),
        load(libc::BPF_H, NETWORK + 40),
        store(PORT),
    ];
    // IPv4 goes on here.
    program[7].k = program.len() as u32 - 8;
    program.extend([
        fetch(SOURCE),
        alu(libc::BPF_XOR, secret),
        alu(libc::BPF_MUL, MIX[0]),
        plain(libc::BPF_MISC | libc::BPF_TAX),
        alu(libc::BPF_RSH, 15),
        with_index(libc::BPF_XOR),
        alu(libc::BPF_MUL, MIX[1]),
        alu(libc::BPF_RSH, 16),
        alu(libc::BPF_MOD, lanes),
        alu(libc::BPF_MUL, cores),
        store(SOURCE),
        fetch(PORT),
        alu(libc::BPF_MUL, MIX[0]),
        alu(libc::BPF_RSH, 16),
        alu(libc::BPF_MOD, cores),
        plain(libc::BPF_MISC | libc::BPF_TAX),
        fetch(SOURCE),
        with_index(libc::BPF_ADD),
        plain(libc::BPF_RET | libc::BPF_A),
    ]);
    program
}

fn instruction(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn plain(code: u32) -> libc::sock_filter {
    instruction(code, 0)
}

fn load(size: u32, offset: u32) -> libc::sock_filter {
    instruction(libc::BPF_LD | size | libc::BPF_ABS, offset)
}

fn alu(operation: u32, operand: u32) -> libc::sock_filter {
    instruction(libc::BPF_ALU | operation | libc::BPF_K, operand)
}

fn with_index(operation: u32) -> libc::sock_filter {
    plain(libc::BPF_ALU | operation | libc::BPF_X)
}

fn store(at: u32) -> libc::sock_filter {
    instruction(libc::BPF_ST, at)
}

fn fetch(at: u32) -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_MEM, at)
}

fn jump(equal: u32, then: u8, otherwise: u8) -> libc::sock_filter {
    let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    libc::sock_filter { code, jt: then, jf: otherwise, k: equal }
}

fn always(over: u32) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JA, over)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

    use socket2::{Domain, Socket, Type};

    use super::super::{Options, open};
    use super::*;

    const CORES: usize = 2;
    const LANES: usize = 8;
    const CONNECTIONS: usize = 24;

    /// Opens sockets in `LANES` lanes of `CORES` cores.
    fn listen(at: IpAddr) -> (SocketAddr, Vec<TcpListener>) {
        let options = Options { transparent: false, deferred: false, lanes: LANES };
        let first = open(SocketAddr::new(at, 0), options).unwrap();
        let address = first.local_addr().unwrap();
        let mut sockets = vec![first];
        sockets.extend((1..LANES * CORES).map(|_| open(address, options).unwrap()));
        choose_by_source(&sockets[0], LANES, CORES).unwrap();
        (address, sockets)
    }

    /// Connects from a source; returns the sockets at which connections arrived, as lane and core.
    fn arrivals(
        source: IpAddr,
        to: SocketAddr,
        sockets: &[TcpListener],
    ) -> BTreeMap<(usize, usize), usize> {
        let connect = |_| {
            let client = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            client.bind(&SocketAddr::new(source, 0).into()).unwrap();
            client.connect(&to.into()).unwrap();
            client
        };
        let clients: Vec<_> = (0..CONNECTIONS).map(connect).collect();
        let mut arrived = BTreeMap::new();
        while arrived.values().sum::<usize>() < clients.len() {
            for (at, socket) in sockets.iter().enumerate() {
                while socket.accept().is_ok() {
                    *arrived.entry((at / CORES, at % CORES)).or_default() += 1;
                }
            }
        }
        arrived
    }

    #[test]
    fn a_source_has_one_lane_and_all_cores() {
        let (address, sockets) = listen(Ipv4Addr::LOCALHOST.into());

        let mut taken = BTreeSet::new();
        for last in 1..=12 {
            let arrived = arrivals(Ipv4Addr::new(127, 0, 77, last).into(), address, &sockets);
            let (lanes, cores): (BTreeSet<_>, BTreeSet<_>) = arrived.keys().copied().unzip();
            assert_eq!((lanes.len(), cores.len()), (1, CORES), "{arrived:?}");
            taken.extend(lanes);
        }

        // Twelve sources in one of eight lanes: once in 8^11.
        assert!(taken.len() > 1, "{taken:?}");
    }

    #[test]
    fn ipv6_too() {
        let (address, sockets) = listen("::1".parse().unwrap());

        let arrived = arrivals("::1".parse().unwrap(), address, &sockets);

        let (lanes, cores): (BTreeSet<_>, BTreeSet<_>) = arrived.keys().copied().unzip();
        assert_eq!((lanes.len(), cores.len()), (1, CORES), "{arrived:?}");
    }
}
