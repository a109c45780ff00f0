//! Frames of a client, except those of header blocks (RFC 9113 section 6).

use super::stream::{Ended, Gone};
use super::{Broken, Goodbye, LARGEST_WINDOW, LEAVING, Session, code, setting};
use crate::http2::frames::{END_STREAM, Frame, LARGEST, kind};
use crate::http2::inspect::PADDED;

impl Session {
    pub(super) fn data_in(&mut self, frame: Frame, payload: &[u8]) -> Result<(), Broken> {
        if frame.stream == 0 {
            return Err(Broken::protocol("DATA without a stream"));
        }
        let content = if frame.flags & PADDED == 0 {
            payload
        } else {
            let padded = payload.split_first().and_then(|(padding, rest)| {
                rest.len().checked_sub(usize::from(*padding)).map(|end| &rest[..end])
            });
            padded.ok_or_else(|| Broken::protocol("padding longer than its frame"))?
        };
        // Padding counts, too (RFC 9113 section 6.9.1).
        self.room -= frame.length as i64;
        if self.room < 0 {
            return Err(Broken::error(code::FLOW_CONTROL_ERROR, "more DATA than the window"));
        }
        let Some(at) = self.streams.slot_of(frame.stream) else {
            self.release(frame.length);
            return match self.streams.ended(frame.stream) {
                Ended::Idle => Err(Broken::protocol("DATA on an idle stream")),
                Ended::ByUs => Ok(()),
                Ended::Closed => self.mistake(frame.stream, code::STREAM_CLOSED),
            };
        };
        let Some(stream) = self.streams.get_mut(at) else { return Ok(()) };
        if let Some(gone) = stream.gone {
            self.release(frame.length);
            return self.late(frame.stream, gone);
        }
        stream.room -= frame.length as i64;
        let declared = stream.left.map(|left| left.checked_sub(content.len() as u64));
        let fault = if stream.ended {
            Some((code::STREAM_CLOSED, "DATA after the end of the request"))
        } else if stream.room < 0 {
            Some((code::FLOW_CONTROL_ERROR, "more DATA than the window"))
        } else if declared == Some(None)
            || (frame.ends_stream() && declared.is_some_and(|left| left != Some(0)))
        {
            Some((code::PROTOCOL_ERROR, "body differs from its declared length"))
        } else {
            None
        };
        if let Some((code, detail)) = fault {
            self.release(frame.length);
            return self.fail(at, code, detail);
        }
        stream.left = declared.flatten();
        stream.ended = frame.ends_stream();
        let before = stream.inbox.capacity();
        stream.inbox.extend_from_slice(content);
        let more = stream.inbox.capacity() - before;
        stream.held += more;
        self.memory.add(more);
        let padding = frame.length - content.len();
        if padding > 0 {
            self.release_on(at, padding);
        }
        self.woken.push(at);
        Ok(())
    }

    pub(super) fn priority(&mut self, frame: Frame, payload: &[u8]) -> Result<(), Broken> {
        if frame.stream == 0 {
            return Err(Broken::protocol("PRIORITY without a stream"));
        }
        let Some((dependency, [_])) = payload.split_first_chunk() else {
            return self.mistake_on(frame.stream, code::FRAME_SIZE_ERROR, "length of PRIORITY");
        };
        // The highest bit says that the dependency is exclusive.
        if u32::from_be_bytes(*dependency) & 0x7fff_ffff == frame.stream {
            let detail = "stream that depends on itself";
            return self.mistake_on(frame.stream, code::PROTOCOL_ERROR, detail);
        }
        Ok(())
    }

    pub(super) fn reset_by_client(&mut self, frame: Frame, payload: &[u8]) -> Result<(), Broken> {
        if frame.stream == 0 {
            return Err(Broken::protocol("RST_STREAM without a stream"));
        }
        if payload.len() != 4 {
            return Err(Broken::error(code::FRAME_SIZE_ERROR, "length of RST_STREAM"));
        }
        match self.streams.slot_of(frame.stream) {
            Some(at) => self.give_up(at, Gone::Client),
            None if self.streams.ended(frame.stream) == Ended::Idle => {
                return Err(Broken::protocol("RST_STREAM on an idle stream"));
            }
            None => {}
        }
        Ok(())
    }

    pub(super) fn settings(&mut self, frame: Frame, payload: &[u8]) -> Result<(), Broken> {
        if frame.stream != 0 {
            return Err(Broken::protocol("SETTINGS on a stream"));
        }
        let (parameters, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() || (frame.acknowledges() && !payload.is_empty()) {
            return Err(Broken::error(code::FRAME_SIZE_ERROR, "length of SETTINGS"));
        }
        if frame.acknowledges() {
            return Ok(());
        }
        self.settled = true;
        for [high, low, value @ ..] in parameters {
            self.setting(u16::from_be_bytes([*high, *low]), u32::from_be_bytes(*value))?;
        }
        self.streams.iter_mut().for_each(|(_, stream)| stream.resized = false);
        self.output.reply(kind::SETTINGS, END_STREAM, 0, &[]);
        Ok(())
    }

    pub(super) fn setting(&mut self, name: u16, value: u32) -> Result<(), Broken> {
        let bounds = match name {
            setting::ENABLE_PUSH | setting::ENABLE_CONNECT_PROTOCOL => 0..=1,
            setting::MAX_FRAME_SIZE => LARGEST as u32..=0x00ff_ffff,
            setting::INITIAL_WINDOW_SIZE => {
                if i64::from(value) > LARGEST_WINDOW {
                    return Err(Broken::error(code::FLOW_CONTROL_ERROR, "value in SETTINGS"));
                }
                return self.resize_windows(i64::from(value));
            }
            setting::HEADER_TABLE_SIZE => {
                self.output.encoder().resize(value as usize);
                return Ok(());
            }
            _ => return Ok(()),
        };
        match bounds.contains(&value) {
            true => Ok(()),
            false => Err(Broken::protocol("value in SETTINGS")),
        }
    }

    /// Changes the windows of all streams by the difference (RFC 9113 section 6.9.2).
    pub(super) fn resize_windows(&mut self, initial: i64) -> Result<(), Broken> {
        let change = initial - std::mem::replace(&mut self.initial, initial);
        for (at, stream) in self.streams.iter_mut() {
            stream.window += change;
            if stream.window > LARGEST_WINDOW {
                return Err(Broken::error(code::FLOW_CONTROL_ERROR, "window too large"));
            }
            // Once for each frame, however often it changes the windows.
            if change > 0 && !stream.resized {
                stream.resized = true;
                self.woken.push(at);
            }
        }
        Ok(())
    }

    pub(super) fn ping(&mut self, frame: Frame, payload: &[u8]) -> Result<(), Broken> {
        if frame.stream != 0 {
            return Err(Broken::protocol("PING on a stream"));
        }
        if payload.len() != LEAVING.len() {
            return Err(Broken::error(code::FRAME_SIZE_ERROR, "length of PING"));
        }
        if !frame.acknowledges() {
            self.output.reply(kind::PING, END_STREAM, 0, payload);
        } else if payload == LEAVING && self.goodbye == Goodbye::Announced {
            self.leave_finally(code::NO_ERROR);
        }
        Ok(())
    }

    pub(super) fn goaway(&mut self, frame: Frame, payload: &[u8]) -> Result<(), Broken> {
        if frame.stream != 0 {
            return Err(Broken::protocol("GOAWAY on a stream"));
        }
        if payload.len() < 8 {
            return Err(Broken::error(code::FRAME_SIZE_ERROR, "length of GOAWAY"));
        }
        self.peer_leaves = true;
        Ok(())
    }

    pub(super) fn window_update(&mut self, frame: Frame, payload: &[u8]) -> Result<(), Broken> {
        let Ok(increment) = payload.try_into() else {
            return Err(Broken::error(code::FRAME_SIZE_ERROR, "length of WINDOW_UPDATE"));
        };
        let increment = i64::from(u32::from_be_bytes(increment) & 0x7fff_ffff);
        if frame.stream == 0 {
            self.window += increment;
            return match increment {
                0 => Err(Broken::protocol("WINDOW_UPDATE of nothing")),
                _ if self.window > LARGEST_WINDOW => {
                    Err(Broken::error(code::FLOW_CONTROL_ERROR, "window too large"))
                }
                _ => Ok(()),
            };
        }
        let Some(at) = self.streams.slot_of(frame.stream) else {
            return match self.streams.ended(frame.stream) {
                Ended::Idle => Err(Broken::protocol("WINDOW_UPDATE on an idle stream")),
                Ended::ByUs | Ended::Closed => Ok(()),
            };
        };
        let Some(stream) = self.streams.get_mut(at) else { return Ok(()) };
        if stream.gone.is_some() {
            return Ok(());
        }
        if increment == 0 {
            return self.fail(at, code::PROTOCOL_ERROR, "WINDOW_UPDATE of nothing");
        }
        let closed = stream.window <= 0;
        stream.window += increment;
        if stream.window > LARGEST_WINDOW {
            return self.fail(at, code::FLOW_CONTROL_ERROR, "window too large");
        }
        if closed {
            self.woken.push(at);
        }
        Ok(())
    }
}
