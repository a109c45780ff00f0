//! Passes the listening sockets to a new process of ours, so that a new binary takes over without refusing a client.
//!
//! The sockets travel over a Unix socket pair that is the child's standard input (SCM_RIGHTS), followed by a memory file with the older process's
//! state, and the child answers when it serves. Deliberately absent: descriptor numbers in the environment, which only unsafe code could turn into
//! sockets.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use durward_control::State;
use durward_control::compile::retained::Served;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

/// Environment variable of a child whose standard input is the hand-over socket; `2` means that a memory file follows the sockets.
const VARIABLE: &str = "DURWARD_HANDOVER";
const WITH_STATE: &str = "2";
const SOCKET: u8 = b'S';
const END: u8 = b'E';
const STATE: u8 = b'M';
/// Largest state accepted, in bytes.
const LARGEST_STATE: u64 = 512 << 20;
const READY: u8 = b'R';

/// Resources that a new process inherits.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    /// Listening sockets, from an older process of ours or from systemd.
    pub(crate) sockets: Vec<TcpListener>,
    /// Older process, to be notified when this one serves.
    pub(crate) older: Option<Older>,
    /// State of the older process.
    pub(crate) handed: Option<Handed>,
}

/// State that an older process hands over: its configuration, its claims and its last good documents.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Handed {
    /// State from which the younger process starts.
    pub(crate) state: State,
    /// Configuration that the older process would serve from the files as they are now.
    pub(crate) served: Served,
    /// Claims of links, as JSON; `None` from a process that keeps none.
    #[serde(default)]
    pub(crate) links: Option<Vec<String>>,
}

/// Process that hands over to this one.
#[derive(Debug)]
pub(crate) struct Older(UnixStream);

impl Older {
    /// Notifies that this process serves; the older one stops accepting.
    pub(crate) fn tell_ready(mut self) -> io::Result<()> {
        self.0.write_all(&[READY])
    }
}

/// Takes the resources that an older process or systemd passed on.
///
/// # Errors
/// Fails if an older process announced itself and its sockets do not arrive.
pub(crate) fn inherit() -> io::Result<Inherited> {
    if let Some(form) = std::env::var_os(VARIABLE) {
        return from_older(form == WITH_STATE);
    }
    let mut passed = listenfd::ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        sockets.extend(passed.take_tcp_listener(index)?);
    }
    Ok(Inherited { sockets, older: None, handed: None })
}

fn from_older(with_state: bool) -> io::Result<Inherited> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut sockets = Vec::new();
    while let Some(socket) = receive(&stream)? {
        sockets.push(TcpListener::from(socket));
    }
    let handed = if with_state { Some(receive_state(&stream)?) } else { None };
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(Inherited { sockets, older: Some(Older(stream)), handed })
}

fn receive(stream: &UnixStream) -> io::Result<Option<OwnedFd>> {
    match receive_byte(stream)? {
        (END, None) => Ok(None),
        (SOCKET, Some(socket)) => Ok(Some(socket)),
        _ => Err(broken_off()),
    }
}

fn receive_state(stream: &UnixStream) -> io::Result<Handed> {
    let (STATE, Some(memory)) = receive_byte(stream)? else { return Err(broken_off()) };
    let mut memory = File::from(memory);
    memory.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    memory.take(LARGEST_STATE).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn broken_off() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the hand-over broke off")
}

/// Receives one byte, with the descriptor beside it.
fn receive_byte(stream: &UnixStream) -> io::Result<(u8, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let socket = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    if received.bytes == 1 { Ok((byte[0], socket)) } else { Err(broken_off()) }
}

/// Time for a process that closed its end to exit.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// New process that was given our sockets and is starting.
#[derive(Debug)]
pub(crate) struct Younger {
    child: Child,
    stream: UnixStream,
}

impl Younger {
    /// Starts `program` with our arguments and passes it `sockets` and our state.
    pub(crate) fn start(program: &Path, sockets: &[OwnedFd], handed: &Handed) -> io::Result<Self> {
        let memory = memory_file(handed)?;
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(VARIABLE, WITH_STATE)
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_PID")
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        let younger = Self { child, stream: ours };
        younger
            .pass(sockets, &memory)
            .inspect_err(|_| tracing::debug!("the new process went away"))?;
        Ok(younger)
    }

    fn pass(&self, sockets: &[OwnedFd], memory: &impl AsFd) -> io::Result<()> {
        self.stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        for socket in sockets {
            self.send(SOCKET, socket)?;
        }
        (&self.stream).write_all(&[END])?;
        // An older program stops reading here, so this send must not wait for a reader.
        self.send(STATE, memory)
    }

    fn send(&self, what: u8, descriptor: &impl AsFd) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [descriptor.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(&self.stream, &[IoSlice::new(&[what])], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Returns the process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process serves. Otherwise kills it, and returns the reason.
    pub(crate) fn wait_ready(mut self, patience: Duration) -> Result<(), String> {
        let answer = self.stream.set_read_timeout(Some(patience)).and_then(|()| {
            let mut byte = [0];
            (&self.stream).read_exact(&mut byte).map(|()| byte[0])
        });
        match answer {
            Ok(READY) => Ok(()),
            Err(error) if timed_out(&error) => {
                self.end();
                Err(format!("it was not ready within {patience:?}"))
            }
            Ok(_) | Err(_) => Err(format!("it ended: {}", self.end())),
        }
    }

    /// Waits for a process that closed its end to exit, or kills it; returns the exit status.
    fn end(&mut self) -> String {
        let until = Instant::now() + LAST_WORDS;
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        // The process may have ended by itself meanwhile.
        drop(self.child.kill());
        self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
    }
}

/// Creates a memory file with the state, which may be larger than a socket's buffer.
fn memory_file(handed: &Handed) -> io::Result<File> {
    let memory = memfd_create("durward-state", MemfdFlags::CLOEXEC)?;
    let mut memory = File::from(memory);
    memory.write_all(&serde_json::to_vec(handed)?)?;
    Ok(memory)
}

fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_pass_from_one_end_to_the_other() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let sockets: Vec<TcpListener> =
            (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        let younger = Younger { child: Command::new("true").spawn().unwrap(), stream: ours };

        let fds: Vec<OwnedFd> = sockets.into_iter().map(OwnedFd::from).collect();
        younger.pass(&fds, &memory_file(&Handed::default()).unwrap()).unwrap();
        let mut received = Vec::new();
        while let Some(socket) = receive(&theirs).unwrap() {
            received.push(TcpListener::from(socket).local_addr().unwrap());
        }

        assert_eq!(received, addresses);
        let handed = receive_state(&theirs).unwrap();
        assert_eq!(handed.served, Served::default());
    }

    #[test]
    fn a_child_that_ends_is_not_ready() {
        let younger = Younger::start(Path::new("/bin/false"), &[], &Handed::default());

        // The child may end before or after everything is passed.
        if let Ok(younger) = younger {
            assert!(younger.wait_ready(Duration::from_secs(10)).is_err());
        }
    }
}
