//! Digest of one value, computed while the value is serialised: neither its text nor a tree of it is held, however many routes a tenant has.
//!
//! Fields named `origin`, the places in files, are left out at every depth.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::io::{Result, Write};
use std::rc::Rc;

use aws_lc_rs::digest::{Context, SHA256};
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

/// Bytes gathered before they are digested.
const BLOCK: usize = 4096;
/// Hexadecimal digits are made of this many bytes of the digest.
const KEPT: usize = 16;
/// JSON of the key that is left out.
const ORIGIN: &[u8] = b"\"origin\"";

/// Returns the digest of a value. Fields count in the order of their declaration, entries of maps in that of the map, which is sorted in the model.
pub(super) fn hash(value: &impl Serialize) -> String {
    let place = Rc::new(Place::default());
    let mut sink =
        Sink { place: Rc::clone(&place), block: Vec::new(), context: Context::new(&SHA256) };
    // Neither the sink nor a value of the model fails.
    let _infallible = value.serialize(&mut Serializer::with_formatter(&mut sink, Filter(place)));
    sink.context.update(&sink.block);
    let digest = sink.context.finish();
    digest.as_ref().iter().take(KEPT).fold(String::with_capacity(2 * KEPT), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// Place in the text, shared by the formatter, which knows what is written, and the sink, which gets it.
#[derive(Default)]
struct Place {
    /// Key being written; held until it is known not to be left out.
    key: RefCell<Option<Vec<u8>>>,
    /// True between the key of a field that is left out and its value.
    left_out: Cell<bool>,
    /// Number of values around this place, counted from the value that is left out; 0 outside of it.
    depth: Cell<usize>,
}

struct Sink {
    place: Rc<Place>,
    block: Vec<u8>,
    context: Context,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if let Some(key) = self.place.key.borrow_mut().as_mut() {
            key.extend_from_slice(bytes);
        } else if self.place.depth.get() == 0 {
            self.block.extend_from_slice(bytes);
            if self.block.len() >= BLOCK {
                self.context.update(&self.block);
                self.block.clear();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Writes compact JSON without the fields that are left out; the comma before such a field stays.
struct Filter(Rc<Place>);

impl Formatter for Filter {
    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> Result<()> {
        if self.0.depth.get() > 0 {
            return Ok(());
        }
        if !first {
            writer.write_all(b",")?;
        }
        self.0.key.replace(Some(Vec::new()));
        Ok(())
    }

    fn end_object_key<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<()> {
        match self.0.key.take() {
            Some(key) if key == ORIGIN => self.0.left_out.set(true),
            Some(key) => writer.write_all(&key)?,
            None => {}
        }
        Ok(())
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<()> {
        let depth = self.0.depth.get();
        if depth > 0 || self.0.left_out.take() {
            self.0.depth.set(depth + 1);
            return Ok(());
        }
        writer.write_all(b":")
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> Result<()> {
        self.0.depth.set(self.0.depth.get().saturating_sub(1));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_place_of_a_value_is_no_part_of_its_digest() {
        let one = json!({"a": 1, "b": [{"origin": {"file": "x", "line": 1}, "z": 2}], "c": 3});
        let moved =
            json!({"a": 1, "b": [{"origin": {"file": {"of": ["y"]}, "line": 9}, "z": 2}], "c": 3});
        for other in [
            json!({"a": 1, "b": [{"origin": {"file": "x", "line": 1}, "z": 3}], "c": 3}),
            json!({"a": 1, "b": [{"origin": {"file": "x", "line": 1}, "z": 2}], "c": 4}),
            json!({"a": 1, "b": [{"origin": {"file": "x", "line": 1}, "z": 2, "zz": null}], "c": 3}),
            json!({"a": 1, "b": [{"original": {"file": "x", "line": 1}, "z": 2}], "c": 3}),
            json!({"a": "origin", "b": [{"origin": 0, "z": 2}], "c": 3}),
        ] {
            assert_ne!(hash(&one), hash(&other), "{other}");
        }

        assert_eq!(hash(&one), hash(&moved));
        assert_eq!(hash(&json!({"origin": 1})), hash(&json!({"origin": {"origin": [1, {}]}})));
        assert_eq!(hash(&one).len(), 32);
    }

    #[test]
    fn long_values_are_digested_to_their_end() {
        let long = |last: u32| (0..5000).chain([last]).map(|one| json!({"n": one}));
        let of = |last| hash(&long(last).collect::<Vec<_>>());

        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }
}
