//! Announces addresses to neighbours, several times: gratuitous ARP and unsolicited neighbour advertisements.
//!
//! One socket stays open, because closing a packet socket takes long.

mod frame;
mod packet;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

pub use frame::Mac;
use packet::PacketSocket;

/// Times of further announcements after the first: a frame may be lost.
const REPEATS: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];
/// Interval of all later announcements: a switch forgets an address sooner than hosts do.
const STEADY: Duration = Duration::from_secs(60);

/// Interface by which an address is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnouncingInterface {
    /// Index of the interface.
    pub interface: u32,
    /// Hardware address of the interface.
    pub mac: Mac,
}

/// Sender of announcements.
#[derive(Debug)]
pub struct Announcer {
    socket: PacketSocket,
    schedule: Schedule,
}

/// Schedule of announcements, without a socket.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    due: BTreeMap<IpAddr, (AnnouncingInterface, usize, Instant, Instant)>,
}

impl Announcer {
    /// Opens the socket, in the thread's network namespace.
    ///
    /// # Errors
    /// Fails without CAP_NET_RAW.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: PacketSocket::open()?, schedule: Schedule::default() })
    }

    /// Announces an address now, and again by the schedule.
    ///
    /// # Errors
    /// Fails if the interface is gone.
    pub fn announce(
        &mut self,
        address: IpAddr,
        place: AnnouncingInterface,
        now: Instant,
    ) -> io::Result<()> {
        self.schedule.begin(address, place, now);
        self.send(address, place)
    }

    /// Stops announcing an address.
    pub fn withdraw(&mut self, address: IpAddr) {
        self.schedule.end(address);
    }

    /// Sends the announcements that are due; returns the time of the next.
    pub fn send_due(&mut self, now: Instant) -> Option<Instant> {
        for (address, place) in self.schedule.take_due(now) {
            if let Err(error) = self.send(address, place) {
                tracing::warn!(%address, %error, "cannot announce an address (ARP, neighbour advertisement)");
            }
        }
        self.schedule.next()
    }

    fn send(&self, address: IpAddr, place: AnnouncingInterface) -> io::Result<()> {
        for frame in frame::frames(address, place.mac) {
            self.socket.send(place.interface, &frame)?;
        }
        Ok(())
    }
}

impl Schedule {
    /// Adds an address, due now.
    pub fn begin(&mut self, address: IpAddr, place: AnnouncingInterface, now: Instant) {
        self.due.insert(address, (place, 0, now, now + REPEATS[0]));
    }

    /// Removes an address.
    pub fn end(&mut self, address: IpAddr) {
        self.due.remove(&address);
    }

    /// Returns the addresses that are due, and schedules their next announcement.
    pub fn take_due(&mut self, now: Instant) -> Vec<(IpAddr, AnnouncingInterface)> {
        let mut found = Vec::new();
        for (address, (place, sent, start, next)) in &mut self.due {
            if *next <= now {
                found.push((*address, *place));
                *sent += 1;
                *next = REPEATS.get(*sent).map_or(now + STEADY, |delay| (*start + *delay).max(now));
            }
        }
        found
    }

    /// Returns the time of the next announcement.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.due.values().map(|(_, _, _, next)| *next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // S5.58
    #[test]
    fn an_address_is_announced_soon_again_and_then_steadily() {
        let start = Instant::now();
        let place = AnnouncingInterface { interface: 1, mac: Mac([2, 0, 0, 0, 0, 1]) };
        let mut schedule = Schedule::default();
        schedule.begin("192.0.2.1".parse().unwrap(), place, start);

        let mut sent = Vec::new();
        for _ in 0..5 {
            let next = schedule.next().unwrap();
            assert_eq!(schedule.take_due(next).len(), 1);
            sent.push(next.duration_since(start).as_millis());
        }

        assert_eq!(sent, [100, 500, 2_000, 62_000, 122_000]);
    }
}
