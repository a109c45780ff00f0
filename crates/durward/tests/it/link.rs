//! Links: tenants that are served by agents, over a gateway of this process and agents in threads.

mod direct;
mod forms;
mod ingresses;
mod isolation;
mod join;
mod measure;
mod out;
mod ports;
mod program;
mod registry;
mod restart;
mod traffic;
mod whole;
mod world;
