#![cfg(test)]
//! The agent against a gateway of this process and backends on loopback.

mod backends;
mod gateways;
mod support;
