//! The peer with glibc's allocator: the least memory per idle connection.

fn main() {
    bench_pingora::run();
}
