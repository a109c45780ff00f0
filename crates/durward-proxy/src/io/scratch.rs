//! Reads into a buffer that all connections of a core share, for the bytes before TLS.

use std::cell::RefCell;
use std::io;

use tokio::net::TcpStream;

/// Bytes of one read; enough for any ClientHello seen in the wild.
pub(crate) const SCRATCH: usize = 16 * 1024;

thread_local! {
    static SCRATCH_BYTES: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Reads at most `most` bytes into the core's scratch buffer and passes them on. 0 means that the peer closed.
pub(crate) async fn read_some(
    stream: &TcpStream,
    most: usize,
    mut hand_over: impl FnMut(&[u8]),
) -> io::Result<usize> {
    loop {
        let attempt = SCRATCH_BYTES.with_borrow_mut(|scratch| {
            let read = stream.try_read(&mut scratch[..most.min(SCRATCH)])?;
            hand_over(&scratch[..read]);
            Ok::<usize, io::Error>(read)
        });
        match attempt {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.readable().await?,
            other => return other,
        }
    }
}
