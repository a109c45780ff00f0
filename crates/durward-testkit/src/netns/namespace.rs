//! A further network namespace of a test that runs inside its own user namespace.
//! It lives as long as its handle, a thread in it, a socket of it or an interface's other end.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{ip, is_inside, unshare};

/// A network namespace; clones are the same one.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<File>);

impl Namespace {
    /// A new namespace with nothing but `lo`, which is up.
    ///
    /// # Panics
    /// Outside of `in_namespace`, where it would need to be root of the host.
    #[must_use]
    #[track_caller]
    #[expect(
        clippy::new_without_default,
        reason = "a default that calls the kernel would surprise"
    )]
    pub fn new() -> Self {
        assert!(is_inside(), "a namespace is made inside of `in_namespace`");
        let made = std::thread::spawn(|| {
            unshare::network().expect("root of its user namespace may make network namespaces");
            ip::link_up("lo");
            Self::current()
        });
        join(made)
    }

    /// The namespace of the calling thread.
    #[must_use]
    pub fn current() -> Self {
        Self(Arc::new(
            File::open("/proc/thread-self/ns/net").expect("a thread has a network namespace"),
        ))
    }

    /// Runs the work on a new thread in this namespace. Threads, servers and processes it starts stay there.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let namespace = self.clone();
        std::thread::spawn(move || {
            namespace.enter();
            work()
        })
    }

    /// Runs the work in this namespace and waits for its result.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let running = scope.spawn(|| {
                self.enter();
                work()
            });
            running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a future in this namespace, on a runtime of its own, and waits for its result.
    pub fn block_on<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> T {
        self.run(|| super::block_on(work()))
    }

    /// See [`super::ip()`].
    pub fn ip(&self, arguments: &str) -> String {
        self.run(|| ip(arguments))
    }

    /// See [`super::add_address`].
    pub fn add_address(&self, device: &str, cidr: &str) {
        self.run(|| ip::add_address(device, cidr));
    }

    /// See [`super::add_route`].
    pub fn add_route(&self, to: &str, via: &str) {
        self.run(|| ip::add_route(to, via));
    }

    /// See [`super::link_up`].
    pub fn link_up(&self, device: &str) {
        self.run(|| ip::link_up(device));
    }

    /// See [`super::sysctl`].
    pub fn sysctl(&self, name: &str, value: &str) {
        self.run(|| ip::sysctl(name, value));
    }

    /// Joins this namespace with another: `here` becomes a device of this one, `there` of the other.
    pub fn veth(&self, here: &str, there: &str, other: &Self) {
        self.run(|| ip::veth(here, there, other));
    }

    /// A path other processes of this user can open.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    fn enter(&self) {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("root of its user namespace may enter network namespaces of it");
    }
}

/// The thread's result; its panic becomes ours.
fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
