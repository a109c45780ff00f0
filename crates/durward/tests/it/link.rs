//! Links: tenants that are served by agents, over a gateway of this process and agents in threads.

mod ingresses;
mod isolation;
mod program;
mod registry;
mod restart;
mod traffic;
mod world;
