//! Check that a tunnel begins with a ClientHello that names the requested host.

use std::sync::Arc;

use durward_model::egress::Host;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::peek::client_hello::{Assembly, Progress};
use crate::refusal::Refusal;

/// Rule that a tunnel with another beginning breaks.
pub(crate) const RULE: &str = "sni";

/// Reads until `bytes` hold a ClientHello for the host; stores its server name in `seen`.
///
/// # Errors
/// [`Refusal::PolicyDenied`] if the ClientHello names another host, or the bytes are not TLS.
pub(crate) async fn wait<R: AsyncRead + Unpin>(
    from: &mut R,
    bytes: &mut Vec<u8>,
    (host, contact): (&Host, Option<&Arc<str>>),
    seen: &mut Option<String>,
) -> Result<(), Refusal> {
    let mut assembly = Assembly::default();
    loop {
        if !bytes.is_empty()
            && let Some(fits) = look(&mut assembly, bytes, host, seen)
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

/// Returns true if the bytes begin a TLS session with `host`; `None` if they are too few. A session with an IP address has no server name (RFC 6066
/// section 3).
pub(crate) fn look(
    assembly: &mut Assembly,
    bytes: &[u8],
    host: &Host,
    seen: &mut Option<String>,
) -> Option<bool> {
    let hello = match assembly.advance(bytes) {
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
