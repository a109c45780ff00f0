//! Whether a tunnel begins as one to the host that was asked for: with a ClientHello that names it.
//!
//! Deliberately absent: what follows the ClientHello; that is between the two ends.

use std::sync::Arc;

use durward_model::egress::Host;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::peek::client_hello::{Progress, parse};
use crate::refusal::Refusal;

/// The rule that is broken by a tunnel that begins otherwise.
pub(crate) const RULE: &str = "sni";

/// Reads until `bytes` hold a ClientHello for the host; what it names is in `seen`.
///
/// # Errors
/// [`Refusal::PolicyDenied`] when it is another host's, or no TLS at all.
pub(crate) async fn wait<R: AsyncRead + Unpin>(
    from: &mut R,
    bytes: &mut Vec<u8>,
    (host, contact): (&Host, Option<&Arc<str>>),
    seen: &mut Option<String>,
) -> Result<(), Refusal> {
    loop {
        if !bytes.is_empty()
            && let Some(fits) = look(bytes, host, seen)
        {
            let denied = || Refusal::PolicyDenied { rule: RULE.into(), contact: contact.cloned() };
            return if fits { Ok(()) } else { Err(denied()) };
        }
        match from.read_buf(bytes).await {
            Ok(count) if count > 0 => {}
            _ => return Err(Refusal::ClientClosed),
        }
    }
}

/// Whether the bytes are the beginning of a session with `host`; `None` when there are too few to tell. Where an address was asked for,
/// TLS names nobody.
pub(crate) fn look(bytes: &[u8], host: &Host, seen: &mut Option<String>) -> Option<bool> {
    let hello = match parse(bytes) {
        Ok(Progress::Missing(_)) => return None,
        Ok(Progress::Complete(hello)) => hello,
        Err(_) => return Some(false),
    };
    let fits = match (host, &hello.server_name) {
        (Host::Name(asked), Some(named)) => **asked == *named.strip_suffix('.').unwrap_or(named),
        (Host::Address(_), None) => true,
        (Host::Name(_), None) | (Host::Address(_), Some(_)) => false,
    };
    *seen = hello.server_name;
    Some(fits)
}
