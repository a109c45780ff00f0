//! The bearer token of a file that others renew, as kubelet does with those of service accounts.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

/// Time for which a token that was read is used before the file is read again.
const FRESH: Duration = Duration::from_secs(10);

/// A token file, and the header that its last reading gave.
pub(super) struct TokenFile {
    path: PathBuf,
    held: Mutex<Option<(HeaderValue, Instant)>>,
}

impl TokenFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, held: Mutex::default() }
    }

    /// Returns the value of `Authorization`. A token that was read once is used on when the file cannot be read any more.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = held.as_ref().is_some_and(|(_, read)| read.elapsed() < FRESH);
        if !is_fresh && let Some(header) = read(&self.path) {
            *held = Some((header, Instant::now()));
        }
        held.as_ref().map(|(header, _)| header.clone())
    }

    /// Makes the next request read the file, since the server did not accept the token.
    pub(super) fn distrust(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, read)) = held.as_mut() {
            *read = read.checked_sub(FRESH).unwrap_or(*read);
        }
    }
}

fn read(path: &Path) -> Option<HeaderValue> {
    let token = std::fs::read_to_string(path)
        .inspect_err(|error| {
            tracing::warn!(file = %path.display(), %error, "token file cannot be read");
        })
        .ok()?;
    let mut header = HeaderValue::try_from(format!("Bearer {}", token.trim())).ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_renewed_token_is_read_after_ten_seconds_or_when_the_server_refuses_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "one\n").unwrap();
        let file = TokenFile::new(path.clone());

        let first = file.header().unwrap();
        std::fs::write(&path, "two\n").unwrap();
        let held = file.header().unwrap();
        tokio::time::advance(FRESH).await;
        let renewed = file.header().unwrap();
        std::fs::write(&path, "three").unwrap();
        file.distrust();
        let distrusted = file.header().unwrap();
        std::fs::remove_file(&path).unwrap();
        tokio::time::advance(FRESH).await;
        let gone = file.header().unwrap();

        assert_eq!([&first, &held], ["Bearer one", "Bearer one"]);
        assert_eq!([&renewed, &distrusted, &gone], ["Bearer two", "Bearer three", "Bearer three"]);
        assert!(first.is_sensitive());
    }
}
