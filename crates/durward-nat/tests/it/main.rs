#![cfg(test)]
//! The kernel plane against real kernels, in network namespaces made without root.

mod egress;
mod hygiene;
mod ingress;
mod lab;
mod lifecycle;
mod near;
