#![cfg(test)]
//! The kit proved against itself and, where one is at hand, against real sockets of the kernel.

mod certificates;
