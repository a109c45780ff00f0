//! Log lines on standard error: readable on a terminal, JSON for collectors.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

use crate::cli::LogFormat;

/// Starts logging. `default` applies if neither `DURWARD_LOG` nor `RUST_LOG` is set.
pub(crate) fn start(format: LogFormat, default: &str) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(default))
        .with_writer(stderr)
        .with_target(false);
    let started = if wants_json(format) {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(colour()).compact().try_init()
    };
    // Only a second call can fail, and then the first logger stays.
    drop(started);
}

fn wants_json(format: LogFormat) -> bool {
    match format {
        LogFormat::Human => false,
        LogFormat::Json => true,
        LogFormat::Auto => !stderr().is_terminal(),
    }
}

fn colour() -> bool {
    anstream::AutoStream::choice(&stderr()) != anstream::ColorChoice::Never
}

fn filter(default: &str) -> EnvFilter {
    let wish = ["DURWARD_LOG", "RUST_LOG"]
        .into_iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|text| !text.is_empty());
    EnvFilter::builder().parse_lossy(wish.as_deref().unwrap_or(default))
}
