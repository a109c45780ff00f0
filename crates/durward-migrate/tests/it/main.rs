#![cfg(test)]
//! Configurations of other programs become documents that compile, and that say what those programs did.

mod ingress;
mod smartnat;
mod squid;
mod squid_model;

/// The time documents are compiled at, in seconds since the Unix epoch.
const NOW: i64 = 1_906_502_400;
