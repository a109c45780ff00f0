//! Links: tenants that are served by agents, over a gateway of this process and agents in threads.

mod isolation;
mod program;
mod restart;
mod traffic;
mod world;
