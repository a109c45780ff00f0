#![cfg(test)]
//! The kit proved against itself and, where one is at hand, against real sockets of the kernel.

mod certificates;
mod client;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod netns;
mod origin;
mod process;
mod raw_origin;
