//! Lists in pages, for servers that do not stream them.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::sleep;

use super::{Reflector, Seen, Sink};
use crate::backoff::Backoff;
use crate::request::{self, ApiError, LONGEST};

/// Objects of one page, at most. Fewer are asked for where they are too large for one answer, so that large objects cannot keep a kind from being listed.
pub(super) const LIMIT: u32 = 500;
/// Length of a page that leaves room for twice as many objects.
const SHORT_PAGE: usize = LONGEST / 8;
/// Lists whose pages were lost in the middle, after which the whole is asked for at once.
const RESTARTS: u32 = 2;

/// A page of a list.
#[derive(Deserialize)]
pub(crate) struct Page<'a> {
    #[serde(default)]
    pub(crate) metadata: PageMetadata,
    #[serde(borrow, default)]
    pub(crate) items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PageMetadata {
    #[serde(default)]
    resource_version: Arc<str>,
    /// Continue token of the next page, if there is one.
    #[serde(default)]
    pub(crate) r#continue: Option<String>,
}

impl<S: Sink> Reflector<S> {
    /// Reads everything in pages.
    pub(super) async fn list(&mut self, version: &str) -> Result<(), ApiError> {
        let mut seen = Seen::default();
        let mut next: Option<String> = None;
        let mut restarts = 0;
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
        loop {
            let path = self.page_path(version, next.as_deref(), restarts);
            let bytes = match request::get(&self.client, &path).await {
                // The pages that follow are gone. What the first ones showed is still there, but what they did not show may be, too.
                Err(ApiError::Gone(_)) if next.is_some() => {
                    if restarts >= RESTARTS {
                        return Err(ApiError::Gone("pages of a list are lost".to_owned()));
                    }
                    (seen, next) = (Seen::default(), None);
                    restarts += 1;
                    sleep(backoff.next()).await;
                    continue;
                }
                Err(ApiError::TooLong) if self.page > 1 && restarts < RESTARTS => {
                    self.page /= 2;
                    continue;
                }
                bytes => bytes?,
            };
            let page: Page<'_> = serde_json::from_slice(&bytes)
                .map_err(|error| ApiError::Unreadable(error.to_string()))?;
            if bytes.len() < SHORT_PAGE {
                self.page = (2 * self.page).min(LIMIT);
            }
            for object in page.items.unwrap_or_default() {
                self.apply(object.get(), Some(&mut seen));
            }
            next = page.metadata.r#continue.filter(|next| !next.is_empty());
            if next.is_none() {
                self.version = Some(page.metadata.resource_version);
                self.finish(&seen);
                return Ok(());
            }
        }
    }

    fn page_path(&self, version: &str, next: Option<&str>, restarts: u32) -> String {
        let mut query = Vec::new();
        let page = self.page.to_string();
        if restarts < RESTARTS {
            query.push(("limit", &*page));
        }
        query.extend(next.map(|next| ("continue", next)));
        let selector = self.field_selector();
        self.select(&mut query, selector.as_deref());
        request::path(&self.scope.kind.path(version, self.scope.namespace.as_deref()), &query)
    }
}
