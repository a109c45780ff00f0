//! Byte streams of any kind behind one type.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A byte stream in both directions.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A byte stream whose kind is known at run time only.
pub(crate) type BoxStream = Box<dyn Stream>;

/// Time of silence after which the kernel asks a peer whether it is still there.
const KEEPALIVE_AFTER: std::time::Duration = std::time::Duration::from_secs(60);
const KEEPALIVE_INTERVAL: std::time::Duration = std::time::Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// Sets what every socket of the proxy has: no delay, and probes that find peers which are gone. Without them a watch whose peer lost power stays for ever.
pub(crate) fn tune(socket: &TcpStream) {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    // Both only fail on a socket that is closed already, and then the next read says so.
    drop(socket.set_nodelay(true));
    drop(socket2::SockRef::from(socket).set_tcp_keepalive(&keepalive));
}
