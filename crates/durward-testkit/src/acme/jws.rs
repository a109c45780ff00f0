//! Signed requests: nonce, URL and ES256 signature are checked as RFC 8555 §6 demands.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;

use super::Shared;
use super::routes::Problem;

/// Signer of a request.
pub(crate) enum Signer {
    /// Account by its URL.
    Account(u64),
    /// Key that has no account yet: its point and its thumbprint.
    Key(Vec<u8>, String),
}

/// Checked request.
pub(crate) struct Signed {
    pub(crate) signer: Signer,
    /// Payload; `Null` for POST-as-GET.
    pub(crate) payload: Value,
}

/// Decodes unpadded base64url.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()
}

/// Checks a request that was made to `path`.
pub(crate) fn check(shared: &Shared, path: &str, body: &[u8]) -> Result<Signed, Problem> {
    let malformed = || Problem::new(400, "malformed", "the JWS cannot be read");
    let jws: Value = serde_json::from_slice(body).map_err(|_| malformed())?;
    let field = |name: &str| jws[name].as_str().ok_or_else(malformed);
    let (protected, payload) = (field("protected")?, field("payload")?);
    let header = decode(protected).ok_or_else(malformed)?;
    let header: Value = serde_json::from_slice(&header).map_err(|_| malformed())?;
    let signature = decode(field("signature")?).ok_or_else(malformed)?;
    if header["alg"] != "ES256" || header["url"] != shared.url(path).as_str() {
        return Err(Problem::new(400, "malformed", "alg or url of the JWS is wrong"));
    }
    use_nonce(shared, header["nonce"].as_str().unwrap_or_default())?;
    let (signer, key) = signer(shared, &header).ok_or_else(malformed)??;
    let message = format!("{protected}.{payload}");
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key)
        .verify(message.as_bytes(), &signature)
        .map_err(|_| Problem::new(401, "unauthorized", "the signature is wrong"))?;
    let payload = match payload {
        "" => Value::Null,
        text => {
            let bytes = decode(text).ok_or_else(malformed)?;
            serde_json::from_slice(&bytes).map_err(|_| malformed())?
        }
    };
    Ok(Signed { signer, payload })
}

fn use_nonce(shared: &Shared, nonce: &str) -> Result<(), Problem> {
    let every = shared.behaviour().bad_nonce_every;
    let mut state = shared.state();
    let known = state.nonces.remove(nonce);
    state.requests += 1;
    let unlucky = every > 0 && state.requests.is_multiple_of(every);
    if known && !unlucky {
        return Ok(());
    }
    Err(Problem::new(400, "badNonce", "the nonce is not known"))
}

type Found = Option<Result<(Signer, Vec<u8>), Problem>>;

fn signer(shared: &Shared, header: &Value) -> Found {
    if let Some(kid) = header["kid"].as_str() {
        let id = kid.rsplit('/').next()?.parse().ok()?;
        let state = shared.state();
        let Some(account) = state.accounts.get(&id) else {
            let problem = Problem::new(400, "accountDoesNotExist", "there is no such account");
            return Some(Err(problem));
        };
        if !account.valid {
            let problem = Problem::new(401, "unauthorized", "the account is deactivated");
            return Some(Err(problem));
        }
        return Some(Ok((Signer::Account(id), account.key.clone())));
    }
    let (x, y) = (header["jwk"]["x"].as_str()?, header["jwk"]["y"].as_str()?);
    let thumb = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    let thumb = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, thumb.as_bytes()));
    let mut point = vec![4];
    point.extend(decode(x)?);
    point.extend(decode(y)?);
    Some(Ok((Signer::Key(point.clone(), thumb), point)))
}
