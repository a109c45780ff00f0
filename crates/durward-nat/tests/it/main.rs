#![cfg(test)]
//! The kernel plane against real kernels, in network namespaces made without root.

mod atomic;
mod checks;
mod cost;
mod egress;
mod enrolment;
mod generations;
mod golden;
mod hygiene;
mod ingress;
mod interfaces;
mod lab;
mod lifecycle;
mod local_address;
mod near;
mod patch;
mod reference;
mod steer;
mod strays;
mod takeover;
mod trace;
mod transparent;
