//! Memory of exchanges' futures, kept per core: each is several KiB, for which an allocator has to search.

use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Futures of each core whose memory is kept.
const KEPT: usize = 64;

/// Future in memory that the core uses again, or that memory alone.
type Memory<F> = Pin<Box<Option<F>>>;

/// Unused memory.
struct Pool {
    /// Vector of [`Memory`] of the one type of future that there is.
    memory: Box<dyn Any>,
    /// Releases half of it.
    shrink: fn(&mut dyn Any),
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::new(Pool { memory: Box::new(()), shrink: |_| {} });
}

/// Future in memory of this core's pool, which goes back there when it is dropped.
pub(super) struct Pooled<F: Future<Output = ()> + 'static>(Option<Memory<F>>);

impl<F: Future<Output = ()> + 'static> Pooled<F> {
    pub(super) fn new(future: F) -> Self {
        Self(Some(match with(Vec::pop).flatten() {
            Some(mut memory) => {
                memory.set(Some(future));
                memory
            }
            None => Box::pin(Some(future)),
        }))
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.0.as_mut().and_then(|memory| memory.as_mut().as_pin_mut()) {
            Some(future) => future.poll(cx),
            None => Poll::Ready(()),
        }
    }
}

impl<F: Future<Output = ()> + 'static> Drop for Pooled<F> {
    fn drop(&mut self) {
        let Some(mut memory) = self.0.take() else { return };
        memory.set(None);
        with(|pool| {
            if pool.len() < KEPT {
                pool.push(memory);
            }
        });
    }
}

/// Runs `act` with the pool; `None` at the end of the thread.
fn with<F: 'static, R>(act: impl FnOnce(&mut Vec<Memory<F>>) -> R) -> Option<R> {
    POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if !pool.memory.is::<Vec<Memory<F>>>() {
            *pool = Pool { memory: Box::new(Vec::<Memory<F>>::new()), shrink: halve::<F> };
        }
        pool.memory.downcast_mut().map(act)
    })
    .ok()
    .flatten()
}

fn halve<F: 'static>(memory: &mut dyn Any) {
    if let Some(memory) = memory.downcast_mut::<Vec<Memory<F>>>() {
        memory.truncate(memory.len() / 2);
    }
}

/// Releases half of this core's unused memory of futures.
pub(crate) fn shrink() {
    POOL.with_borrow_mut(|pool| (pool.shrink)(&mut *pool.memory));
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::task::Waker;

    use super::*;

    async fn large(held: Rc<()>) {
        let bytes = [0_u8; 4096];
        tokio::task::yield_now().await;
        drop((held, bytes));
    }

    /// Returns the number of pieces of memory that are kept for futures like `_like`.
    fn kept<F: Future<Output = ()> + 'static>(_like: &Pooled<F>) -> usize {
        with(|pool: &mut Vec<Memory<F>>| pool.len()).unwrap()
    }

    #[test]
    fn memory_is_used_again_and_what_it_held_is_not_kept() {
        let held = Rc::new(());
        let mut cx = Context::from_waker(Waker::noop());
        let pooled = || Pooled::new(large(Rc::clone(&held)));

        let mut first = pooled();
        assert!(first.poll(&mut cx).is_pending());
        drop((first, pooled()));

        let mut second = pooled();
        assert_eq!((Rc::strong_count(&held), kept(&second)), (2, 1));
        assert!(second.poll(&mut cx).is_pending() && second.poll(&mut cx).is_ready());
        let many: Vec<_> = (0..2 * KEPT).map(|_| pooled()).collect();
        drop(many);
        assert_eq!((Rc::strong_count(&held), kept(&second)), (1, KEPT));
        shrink();
        assert_eq!(kept(&second), KEPT / 2);
    }
}
