#![cfg(test)]
//! The kernel plane against real kernels, in network namespaces made without root.

mod ingress;
mod lab;
