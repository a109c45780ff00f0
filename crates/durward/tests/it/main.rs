#![cfg(test)]
//! What the binary does, seen from outside: its command line, its admin interface, its signals, its demo.

mod admin;
mod cli;
mod demo;
mod support;
mod supervise;
