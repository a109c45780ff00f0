//! Upstream's side of an exchange over HTTP/1.1.

use std::io;
use std::task::{Context, Poll, ready};

use crate::http::body::Decoder;
use crate::http::flow::{HeadFault, Upstream};
use crate::http::framing::{self, Kind};
use crate::http::h1::{Conn, write};
use crate::http::message::{Framing, Request, Response, Version};
use crate::http::parse::{Asked, Parsed, Progress, parse_response};
use crate::refusal::Refusal;
use crate::syntax::Fault;

impl Upstream for Conn {
    fn request(&mut self, request: &Request) -> Result<(), Refusal> {
        let framing = if request.upgrade.is_extended() { Framing::None } else { request.framing };
        self.output.begin(framing, |out| write::request(out, request));
        Ok(())
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request,
        response: &mut Response,
    ) -> Poll<Result<(), HeadFault>> {
        // An extended CONNECT becomes a GET with Upgrade in HTTP/1.1.
        let extended = request.upgrade.is_extended();
        let kind = if extended { Kind::Other } else { Kind::of(request) };
        let asked = Asked { kind, upgrade: !request.upgrade.is_none() };
        loop {
            if !self.input.buffer.is_empty() {
                let input = self.input.buffer.filled();
                let parsed = parse_response(input, &mut self.progress, asked, response)
                    .map_err(|fault| HeadFault::Malformed(fault.of_response()))?;
                if let Parsed::Head(length) = parsed {
                    self.input.buffer.consume(length);
                    self.progress = Progress::default();
                    let framing = framing::incoming(kind, response.status, response.content);
                    self.expect_body(framing, None);
                    return Poll::Ready(Ok(()));
                }
            }
            match ready!(self.poll_receive(cx)) {
                Ok(0) => return Poll::Ready(Err(HeadFault::Closed)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    let refusal = Fault::TooLarge.of_response();
                    return Poll::Ready(Err(HeadFault::Malformed(refusal)));
                }
                Err(_) => return Poll::Ready(Err(HeadFault::Closed)),
            }
        }
    }

    fn is_silent(&self) -> bool {
        self.input.received == 0
    }

    fn tunnel(&mut self) {
        self.input.decoder = Decoder::UntilClose;
        self.output.begin(Framing::UntilClose, |_| {});
    }

    fn holds_upgrades(&self) -> bool {
        true
    }
}

impl Conn {
    /// Queues bytes before all others of a tunnel.
    pub(crate) fn send_first(&mut self, bytes: &[u8]) {
        self.output.begin(Framing::UntilClose, |out| out.extend_from_slice(bytes));
    }

    /// Returns true if another request may follow the one that `response` answered.
    pub(crate) fn may_be_reused(&self, response: &Response) -> bool {
        response.version == Version::Http11
            && !response.close
            && self.is_drained()
            && self.output.is_empty()
            && self.output.is_complete()
    }
}
