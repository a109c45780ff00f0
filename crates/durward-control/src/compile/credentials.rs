//! The file of clients' credentials: a name and the SHA-256 of a secret per line.
//!
//! Nothing of a line is ever repeated in a finding: what is no hash may be the secret itself. Deliberately absent: slow hashes; secrets are
//! long and random, and are compared for each request.

use std::collections::BTreeSet;
use std::sync::Arc;

use durward_model::egress::Credential;

use super::certificates::Files;
use super::keys;
use super::report::{Field, Report};
use crate::place::At;

/// The reason of findings about a file that is no file of credentials.
const BAD: &str = "BadCredential";
/// Most faulty lines that are listed: a file of another kind has a million of them.
const FAULTS: usize = 20;

/// The credentials in the file; none after an error. `shared` says that the proxy has its address together with those of other tenants.
pub(crate) fn read(
    report: &mut Report<'_>,
    files: &mut Files<'_>,
    file: &At<String>,
    shared: bool,
    field: &Field<'_>,
) -> Vec<Credential> {
    let Some(found) = files.secrets(report, file, field) else { return Vec::new() };
    let before = report.errors();
    let mut fault = |reason: &str, sentence: &str| {
        let sentence = format!("{:?} {sentence}", file.value);
        report.error(reason, file.place, field, &sentence);
    };
    let Ok(text) = std::str::from_utf8(found.bytes) else {
        fault(BAD, "is not text");
        return Vec::new();
    };
    let mut credentials = Vec::new();
    let mut names = BTreeSet::new();
    let mut faults = 0;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if faults == FAULTS {
            fault(BAD, "has more faults, which are not listed");
            break;
        }
        match judge(line, &mut names, files) {
            Ok(credential) => credentials.push(credential),
            Err((reason, sentence)) => {
                faults += 1;
                fault(reason, &format!("has in line {number} {sentence}"));
            }
        }
    }
    if credentials.is_empty() && faults == 0 {
        fault(
            BAD,
            "holds no credential, so nobody could use the proxy: write NAME:HASH, or, to shut everybody out, take the entry of `proxy` away",
        );
    }
    if report.errors() == before {
        let origin = report.source().origin(file.place);
        for credential in &credentials {
            files.use_secret(keys::of_client(credential), shared, origin.clone());
        }
    }
    credentials
}

/// Returns the credential in a line, or the reason and the sentence of what is wrong with it.
fn judge(
    line: &str,
    names: &mut BTreeSet<Arc<str>>,
    files: &Files<'_>,
) -> Result<Credential, (&'static str, String)> {
    let unfit = "no NAME:HASH; the hash is the secret's SHA-256 in hexadecimal, as `printf %s SECRET | sha256sum` says";
    let credential = credential(line).ok_or_else(|| (BAD, unfit.to_owned()))?;
    if !names.insert(Arc::clone(&credential.name)) {
        return Err((BAD, "a name it had before".to_owned()));
    }
    match files.holder(&keys::of_client(&credential)) {
        None => Ok(credential),
        Some(holder) => Err((
            "SecretTaken",
            format!("a credential {holder}: a credential is one tenant's, issue another"),
        )),
    }
}

/// Returns the credential in a line that is one.
pub(super) fn credential(line: &str) -> Option<Credential> {
    let (name, hash) = line.rsplit_once(':')?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    let fits = (1..=63).contains(&name.len()) && name.bytes().all(plain);
    (fits && hash.len() == 64).then_some(())?;
    let mut sha256 = [0; 32];
    for (byte, pair) in sha256.iter_mut().zip(hash.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    hash.bytes()
        .all(|byte| byte.is_ascii_hexdigit())
        .then(|| Credential { name: Arc::from(name), sha256 })
}

#[cfg(test)]
mod tests {
    use super::*;

    // S2.15
    #[test]
    fn a_credential_is_a_name_and_a_hash() {
        let hash = "ab".repeat(32);

        let read = credential(&format!("ci@acme:{hash}")).unwrap();

        assert_eq!((&*read.name, read.sha256), ("ci@acme", [0xab; 32]));
        assert!(!format!("{read:?}").contains("171"), "{read:?}");
        for bad in [
            format!(":{hash}"),
            format!("a b:{hash}"),
            format!("ci:{}", &hash[1..]),
            format!("ci:+{}", &hash[1..]),
            "ci:secret".to_owned(),
            hash,
        ] {
            assert!(credential(&bad).is_none(), "{bad}");
        }
    }
}
