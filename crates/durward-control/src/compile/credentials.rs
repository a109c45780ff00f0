//! The file of clients' credentials: a name and the SHA-256 of a secret per line.
//!
//! Nothing of a line is ever repeated in a finding: what is no hash may be the secret itself. Deliberately absent: slow hashes; secrets are
//! long and random, and are compared for each request.

use std::collections::BTreeSet;
use std::sync::Arc;

use durward_model::egress::Credential;

use super::certificates::Files;
use super::report::{Field, Report};
use crate::place::At;

/// So many faulty lines are listed: a file of another kind has a million of them.
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
    let mut fault = |sentence: &str| {
        let sentence = format!("{:?} {sentence}", file.value);
        report.error("BadCredential", file.place, field, &sentence);
    };
    let Ok(text) = std::str::from_utf8(found.bytes) else {
        fault("is not text");
        return Vec::new();
    };
    let mut credentials = Vec::new();
    let mut names = BTreeSet::new();
    let mut faults = 0;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if faults == FAULTS {
            fault("has more faults of this kind, which are not listed");
            break;
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match credential(line) {
            Some(credential) if names.insert(Arc::clone(&credential.name)) => {
                credentials.push(credential)
            }
            Some(_) => {
                faults += 1;
                fault(&format!("has in line {number} a name it had before"));
            }
            None => {
                faults += 1;
                fault(&format!(
                    "has in line {number} no NAME:HASH; the hash is the secret's SHA-256 in hexadecimal, as `printf %s SECRET | sha256sum` says"
                ));
            }
        }
    }
    if credentials.is_empty() {
        fault(
            "holds no credential, so nobody could use the proxy: write NAME:HASH, or, to shut everybody out, take the entry of `proxy` away",
        );
    }
    if report.errors() == before {
        files.use_secrets(&found, shared, report.source().origin(file.place));
    }
    credentials
}

fn credential(line: &str) -> Option<Credential> {
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
