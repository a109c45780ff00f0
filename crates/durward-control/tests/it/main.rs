#![cfg(test)]
//! The tests of `durward-control` that need files: golden cases, random documents, and watching.

mod bounds;
mod certificates;
mod claims;
mod cluster;
mod describe;
mod files;
mod foreign;
mod golden;
mod histories;
mod identities;
mod isolation;
mod issuing;
mod named_files;
mod objects;
mod publishing;
mod retained;
mod routing_json;
mod schema;
mod watching;
