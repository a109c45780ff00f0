//! Bounds of a carrier: streams, windows and buffers.

/// Bytes that a stream may have under way and unread.
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// Streams that a carrier holds at once.
pub const STREAMS: u32 = 2_048;
/// Bytes of a stream that may wait to be sent.
pub const SEND_BUFFER: usize = 32 * 1024;
/// Bytes that a carrier's socket holds back unsent (`TCP_NOTSENT_LOWAT`): what a small stream waits behind.
pub const UNSENT: u32 = 128 * 1024;
/// Bytes of a header block.
pub const HEADERS: u32 = 16 * 1024;

/// Bounds of one carrier. Both ends may have different ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes that a stream may have under way and unread.
    pub stream_window: u32,
    /// Streams held at once.
    pub streams: u32,
    /// Bytes of a stream that may wait to be sent.
    pub send_buffer: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { stream_window: STREAM_WINDOW, streams: STREAMS, send_buffer: SEND_BUFFER }
    }
}

impl Bounds {
    /// Largest window of HTTP/2, in bytes (RFC 9113, section 6.9.1).
    const LARGEST_WINDOW: u32 = (1 << 31) - 1;

    /// Returns the window of the connection in bytes. Streams that are not read cannot use it up together, so they never stop the others.
    ///
    /// ```
    /// let bounds = durward_link::Bounds::default();
    /// assert!(bounds.connection_window() >= bounds.streams * bounds.stream_window);
    /// ```
    #[must_use]
    pub fn connection_window(&self) -> u32 {
        // The control stream has a window of its own.
        (self.streams + 1).saturating_mul(self.stream_window).min(Self::LARGEST_WINDOW)
    }

    /// Returns these bounds with so few streams that the connection's window covers all of them.
    #[must_use]
    pub fn fitting(self) -> Self {
        let most = Self::LARGEST_WINDOW / self.stream_window.max(1) - 1;
        Self { streams: self.streams.min(most), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_window_covers_every_stream_whatever_is_configured() {
        for (stream_window, streams) in
            [(256 * 1024, 2_048), (1 << 20, 100_000), (1, 1), (1 << 30, 7)]
        {
            let bounds = Bounds { stream_window, streams, send_buffer: 1 }.fitting();

            let together = u64::from(bounds.streams) * u64::from(bounds.stream_window);
            assert!(u64::from(bounds.connection_window()) >= together, "{bounds:?}");
        }
    }
}
