//! Header blocks of a client: heads of requests, and trailers.

use super::stream::{Ended, Stream};
use super::{Begun, Broken, Event, Goodbye, KEPT, Open, QUANTUM, Session, code};
use crate::http::h2::head::{self, Rejected, Rules};
use crate::http::message::{Framing, PooledRequest};
use crate::http2::frames::{END_HEADERS, Frame};
use crate::http2::inspect::fragment;
use crate::refusal::Refusal;
use crate::syntax::Fault;

impl Session {
    pub(super) fn headers(
        &mut self,
        frame: Frame,
        payload: &[u8],
        rules: &mut dyn FnMut() -> Rules,
    ) -> Result<Option<Event>, Broken> {
        if frame.stream.is_multiple_of(2) {
            return Err(Broken::protocol("stream that a client cannot open"));
        }
        let (block, dependency) = fragment(frame, payload)
            .ok_or_else(|| Broken::protocol("padding longer than its frame"))?;
        let depends_on_itself = dependency == Some(frame.stream);
        let open = Open { stream: frame.stream, ends: frame.ends_stream(), depends_on_itself };
        if frame.flags & END_HEADERS != 0 {
            return self.section(open, block, rules);
        }
        self.open = Some(open);
        self.gather(block)?;
        Ok(None)
    }

    pub(super) fn continuation(
        &mut self,
        frame: Frame,
        payload: &[u8],
        rules: &mut dyn FnMut() -> Rules,
    ) -> Result<Option<Event>, Broken> {
        let open = self.open.filter(|open| open.stream == frame.stream);
        let open = open.ok_or_else(|| Broken::protocol("CONTINUATION without a header block"))?;
        self.gather(payload)?;
        if frame.flags & END_HEADERS == 0 {
            return Ok(None);
        }
        self.open = None;
        let mut block = std::mem::take(&mut self.block);
        let event = self.section(open, &block, rules)?;
        block.clear();
        block.shrink_to(KEPT);
        self.block = block;
        Ok(event)
    }

    /// Adds to the header block under way.
    pub(super) fn gather(&mut self, part: &[u8]) -> Result<(), Broken> {
        let most = (self.announced.list as usize).saturating_mul(2).max(64 * 1024);
        if self.block.len() + part.len() > most {
            return Err(Broken { code: code::ENHANCE_YOUR_CALM, refusal: Refusal::HeadTooLarge });
        }
        self.block.extend_from_slice(part);
        Ok(())
    }

    /// Handles a complete header block.
    pub(super) fn section(
        &mut self,
        open: Open,
        block: &[u8],
        rules: &mut dyn FnMut() -> Rules,
    ) -> Result<Option<Event>, Broken> {
        if open.stream > self.streams.last {
            return self.begin(open, block, rules());
        }
        let most = self.announced.list as usize;
        let trailers = head::trailers(&mut self.decoder, block, most)?;
        let Some(at) = self.streams.slot_of(open.stream) else {
            return match self.streams.ended(open.stream) {
                Ended::Idle => Err(Broken::protocol("stream older than the last one")),
                Ended::ByUs => Ok(None),
                Ended::Closed => {
                    Err(Broken::error(code::STREAM_CLOSED, "HEADERS on a closed stream"))
                }
            };
        };
        let Some(stream) = self.streams.get_mut(at) else { return Ok(None) };
        if let Some(gone) = stream.gone {
            return self.late(open.stream, gone).map(|()| None);
        }
        let fault = if stream.ended {
            Some((code::STREAM_CLOSED, "HEADERS after the end of the request"))
        } else if open.depends_on_itself {
            Some((code::PROTOCOL_ERROR, "stream that depends on itself"))
        } else if !open.ends {
            Some((code::PROTOCOL_ERROR, "trailers that do not end the request"))
        } else if stream.left.is_some_and(|left| left > 0) {
            Some((code::PROTOCOL_ERROR, "body differs from its declared length"))
        } else {
            trailers.as_ref().err().map(|detail| (code::PROTOCOL_ERROR, *detail))
        };
        if let Some((code, detail)) = fault {
            self.fail(at, code, detail)?;
            return Ok(None);
        }
        stream.ended = true;
        if let Ok(trailers) = trailers {
            stream.held += trailers.capacity();
            self.memory.add(trailers.capacity());
            stream.trailers = Some(Box::new(trailers));
        }
        self.woken.push(at);
        Ok(None)
    }

    /// Handles the head of a request.
    pub(super) fn begin(
        &mut self,
        open: Open,
        block: &[u8],
        rules: Rules,
    ) -> Result<Option<Event>, Broken> {
        let id = open.stream;
        let mut request = PooledRequest::new();
        let read = head::request(&mut self.decoder, block, (open.ends, rules), &mut request)?;
        self.streams.open(id);
        if let Goodbye::Final(_) = self.goodbye {
            self.streams.note_reset(id);
            return Ok(None);
        }
        if self.streams.len() >= self.announced.streams as usize {
            // The request was not processed, so the client may retry (RFC 9113 section 8.7).
            self.send_reset(id, code::REFUSED_STREAM);
            return Ok(None);
        }
        let itself = open.depends_on_itself.then_some("stream that depends on itself");
        let fault = match (read, itself) {
            (Err(Rejected::Reset(detail)), _) | (_, Some(detail)) => {
                self.mistake(id, code::PROTOCOL_ERROR)?;
                return Ok(Some(Event::Rejected(Fault::Malformed(detail))));
            }
            (Err(Rejected::Answer(fault)), None) => Some(fault),
            (Ok(()), None) => None,
        };
        let left = match request.framing {
            Framing::Length(length) if fault.is_none() && !open.ends => Some(length),
            _ => None,
        };
        let at = self.streams.insert(Stream {
            id,
            inbox: Vec::new(),
            trailers: None,
            ended: open.ends,
            gone: None,
            resized: false,
            left,
            room: i64::from(self.announced.window),
            taken: 0,
            window: self.initial,
            finished: false,
            quantum: QUANTUM,
            waits: false,
            held: 0,
        });
        Ok(Some(Event::Begun(Begun { at, request, fault })))
    }
}
