#![cfg(test)]
//! What the data plane does on real sockets.

mod edge;
mod handover;
mod hellos;
mod hosted;
mod listeners;
mod named;
mod named_worlds;
mod peek;
mod refused;
mod tcp;
mod tls;
