//! The session as the exchanges see it: bodies of requests, responses, and whose turn it is to send.

use std::io;

use super::output::DATA;
use super::stream::{Gone, Stream};
use super::{Broken, KEPT, MISTAKES, QUANTUM, Session, Taken, WINDOWS, code};
use crate::http::fields::Fields;
use crate::http::message::Response;
use crate::http2::frames::{END_STREAM, kind};

impl Session {
    /// Resets a stream without an exchange for an error of the client.
    pub(super) fn mistake(&mut self, id: u32, code: u32) -> Result<(), Broken> {
        self.mistakes += 1;
        if self.mistakes > MISTAKES {
            return Err(Broken::flood("streams"));
        }
        self.send_reset(id, code);
        Ok(())
    }

    /// Handles DATA or HEADERS on a stream that is gone: after its own reset the client must not send any (RFC 9113 section 5.1); after ours they may have been
    /// on their way.
    pub(super) fn late(&mut self, id: u32, gone: Gone) -> Result<(), Broken> {
        match gone {
            Gone::Client => self.mistake(id, code::STREAM_CLOSED),
            _ => Ok(()),
        }
    }

    /// Resets a stream with its exchange for an error of the client.
    pub(super) fn fail(
        &mut self,
        at: usize,
        code: u32,
        detail: &'static str,
    ) -> Result<(), Broken> {
        if let Some(stream) = self.streams.get(at) {
            self.mistake(stream.id, code)?;
        }
        self.give_up(at, Gone::Malformed(detail));
        Ok(())
    }

    pub(super) fn mistake_on(
        &mut self,
        id: u32,
        code: u32,
        detail: &'static str,
    ) -> Result<(), Broken> {
        match self.streams.slot_of(id) {
            Some(at) => self.fail(at, code, detail),
            None => self.mistake(id, code),
        }
    }

    /// Ends both directions of a stream; its exchange learns why.
    pub(super) fn give_up(&mut self, at: usize, why: Gone) {
        let Some(stream) = self.streams.get_mut(at) else { return };
        if stream.gone.is_some() {
            return;
        }
        stream.gone = Some(why);
        stream.finished = true;
        stream.trailers = None;
        let lost = std::mem::take(&mut stream.inbox);
        stream.held -= lost.capacity();
        self.memory.sub(lost.capacity());
        self.release(lost.len());
        self.woken.push(at);
    }

    pub(super) fn send_reset(&mut self, id: u32, code: u32) {
        if !self.over {
            self.streams.note_reset(id);
            self.output.reply(kind::RST_STREAM, 0, id, &code.to_be_bytes());
        }
    }

    /// Lets the client send as many octets more on the connection, which it is told of at half a window.
    pub(super) fn release(&mut self, count: usize) {
        self.taken += count as u32;
        if self.taken >= self.announced.window * WINDOWS / 2 && !self.over {
            let more = std::mem::take(&mut self.taken);
            self.room += i64::from(more);
            self.output.frame(kind::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }
    }

    /// Lets the client send as many octets more on a stream, and on the connection.
    pub(crate) fn release_on(&mut self, at: usize, count: usize) {
        self.release(count);
        let Some(stream) = self.streams.get_mut(at) else { return };
        stream.taken += count as u32;
        if !stream.ended && stream.gone.is_none() && stream.taken >= self.announced.window / 2 {
            let more = std::mem::take(&mut stream.taken);
            stream.room += i64::from(more);
            self.output.frame(kind::WINDOW_UPDATE, 0, stream.id, &more.to_be_bytes());
        }
    }

    /// Moves data received into `chunk`, which is empty, or returns what has come instead.
    pub(crate) fn take(&mut self, at: usize, chunk: &mut Vec<u8>) -> Taken {
        let Some(stream) = self.streams.get_mut(at) else { return Taken::Gone };
        if !stream.inbox.is_empty() {
            if chunk.capacity() > KEPT {
                self.memory.sub(chunk.capacity());
                stream.held -= chunk.capacity();
                *chunk = Vec::new();
            }
            chunk.clear();
            std::mem::swap(&mut stream.inbox, chunk);
            return Taken::Data;
        }
        match stream.gone {
            Some(Gone::Malformed(detail)) => Taken::Malformed(detail),
            Some(Gone::Client | Gone::Reset) => Taken::Gone,
            None if stream.ended => Taken::End(stream.trailers.take()),
            None => Taken::Nothing,
        }
    }

    /// Forgets memory of `bytes` that an exchange keeps from now on.
    pub(crate) fn give_away(&mut self, at: usize, bytes: usize) {
        if let Some(stream) = self.streams.get_mut(at) {
            stream.held -= bytes;
            self.memory.sub(bytes);
        }
    }

    /// Returns true if the client's end has come, and no data or trailers in front of it are left.
    pub(crate) fn is_drained(&self, at: usize) -> bool {
        self.streams.get(at).is_some_and(|stream| {
            stream.ended && stream.inbox.is_empty() && stream.trailers.is_none()
        })
    }

    /// Returns true if the stream was reset, unless the exchange will learn so from the body.
    pub(crate) fn is_gone(&self, at: usize) -> bool {
        self.streams.get(at).is_none_or(|stream| match stream.gone {
            None => false,
            Some(Gone::Malformed(_)) => stream.ended,
            Some(Gone::Client | Gone::Reset) => true,
        })
    }

    /// Returns a stream on which something may be sent.
    pub(super) fn sending(&mut self, at: usize) -> io::Result<&mut Stream> {
        let over = self.over;
        let stream = self.streams.get_mut(at).filter(|stream| !stream.finished && !over);
        stream.ok_or_else(|| io::ErrorKind::ConnectionReset.into())
    }

    /// Sends the head of a response.
    ///
    /// # Errors
    /// The stream was reset.
    pub(crate) fn head(
        &mut self,
        at: usize,
        response: &Response,
        length: Option<u64>,
        ended: bool,
    ) -> io::Result<()> {
        let is_full = self.output.is_full();
        let stream = self.sending(at)?;
        if is_full && response.status < 200 && response.status != 101 {
            // Whoever does not read has no use for what comes before the response.
            return Ok(());
        }
        stream.finished = ended;
        let id = stream.id;
        self.output.head(id, response, length, ended);
        Ok(())
    }

    /// Returns how many of `wanted` octets of DATA may be sent now; 0 if the exchange is woken when some may.
    ///
    /// # Errors
    /// The stream was reset.
    pub(crate) fn room(&mut self, at: usize, wanted: usize) -> io::Result<usize> {
        let own = self.granted == Some(at);
        let alone = self.waiting.is_empty();
        let common = self.output.room().min(self.window.max(0) as usize);
        let stream = self.sending(at)?;
        // The client's WINDOW_UPDATE for the stream wakes the exchange.
        let window = stream.window.max(0) as usize;
        if window == 0 {
            return Ok(0);
        }
        if common == 0 || stream.quantum == 0 || !(own || alone) {
            if !stream.waits {
                stream.waits = true;
                self.waiting.push_back(at);
            }
            return Ok(0);
        }
        Ok(wanted.min(window).min(common).min(stream.quantum).min(DATA))
    }

    /// Sends DATA, for which there is room.
    ///
    /// # Errors
    /// The stream was reset.
    pub(crate) fn data(&mut self, at: usize, data: &[u8], last: bool) -> io::Result<()> {
        let stream = self.sending(at)?;
        stream.window -= data.len() as i64;
        stream.quantum -= data.len().min(stream.quantum);
        stream.finished = last;
        let id = stream.id;
        self.window -= data.len() as i64;
        self.output.frame(kind::DATA, if last { END_STREAM } else { 0 }, id, data);
        Ok(())
    }

    /// Ends a response.
    ///
    /// # Errors
    /// The stream was reset.
    pub(crate) fn finish(&mut self, at: usize, trailers: Option<&Fields>) -> io::Result<()> {
        let stream = self.sending(at)?;
        stream.finished = true;
        let id = stream.id;
        match trailers {
            Some(trailers) => self.output.trailers(id, trailers),
            None => self.output.frame(kind::DATA, END_STREAM, id, &[]),
        }
        Ok(())
    }

    /// Resets a stream, unless our end was sent or the client has reset it.
    pub(crate) fn reset(&mut self, at: usize, code: u32) {
        let Some(stream) = self.streams.get(at).filter(|stream| !stream.finished) else { return };
        let id = stream.id;
        self.send_reset(id, code);
        self.give_up(at, Gone::Reset);
    }

    /// Ends a stream whose exchange is over; it has not consumed `unread` octets of what it took.
    pub(crate) fn close(&mut self, at: usize, unread: usize) {
        // A client that still sends is told to stop; its response is whole (RFC 9113 section 8.1).
        let ends = self.streams.get(at).map(|stream| {
            let code = if stream.finished { code::NO_ERROR } else { code::CANCEL };
            let done = stream.gone.is_some() || (stream.finished && stream.ended);
            (stream.id, (!done).then_some(code))
        });
        if let Some((id, Some(code))) = ends {
            self.send_reset(id, code);
        }
        let Some(stream) = self.streams.remove(at) else { return };
        self.memory.sub(stream.held);
        self.release(unread + stream.inbox.len());
        if stream.waits {
            self.waiting.retain(|waiting| *waiting != at);
        }
        if self.granted == Some(at) {
            self.granted = None;
        }
    }

    /// Turns a request away that was not processed, so that the client may retry it.
    pub(crate) fn refuse(&mut self, at: usize) {
        self.reset(at, code::REFUSED_STREAM);
        self.close(at, 0);
    }

    /// Takes the streams for whose exchange something has happened.
    pub(crate) fn take_woken(&mut self, into: &mut impl Extend<usize>) {
        into.extend(self.woken.drain(..));
        self.woken.shrink_to(KEPT);
    }

    /// Begins a run of a stream's exchange.
    pub(crate) fn enter(&mut self, at: usize) {
        if let Some(stream) = self.streams.get_mut(at) {
            stream.quantum = QUANTUM;
        }
    }

    /// Ends the run of a stream's exchange, and gives the next stream that waits its turn if there is room.
    pub(crate) fn grant(&mut self, ran: Option<usize>) {
        if self.granted == ran {
            self.granted = None;
        }
        if self.granted.is_some() || self.window <= 0 || self.output.room() == 0 {
            return;
        }
        if let Some(at) = self.waiting.pop_front() {
            if let Some(stream) = self.streams.get_mut(at) {
                stream.waits = false;
            }
            self.granted = Some(at);
            self.woken.push(at);
        }
    }

    /// Returns true if streams wait for room in what is sent, not for the client's window.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty() && self.window > 0
    }
}
