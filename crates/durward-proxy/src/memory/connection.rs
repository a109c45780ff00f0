//! Memory of one connection, counted on its core; the shared budget is charged in steps only.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::Hold;
use crate::refusal::Refusal;

/// Bytes that a connection may use without a charge: its fixed price covers them.
const FREE: usize = 4 * 1024;
/// Bytes charged at once.
const STEP: usize = 16 * 1024;
/// Bytes kept charged beyond the use, so that a busy connection does not go back to the budget again and again.
const SLACK: usize = 64 * 1024;

/// Memory account of one connection. Lives on one core.
#[derive(Debug)]
pub(crate) struct ConnectionMemory {
    hold: RefCell<Hold>,
    used: Cell<usize>,
}

impl ConnectionMemory {
    /// Creates an account with nothing used.
    pub(crate) fn new(hold: Hold) -> Rc<Self> {
        Rc::new(Self { hold: RefCell::new(hold), used: Cell::new(0) })
    }

    /// Counts bytes as used. The budget is charged by [`ConnectionMemory::settle`].
    pub(crate) fn add(&self, bytes: usize) {
        self.used.set(self.used.get().saturating_add(bytes));
    }

    /// Counts bytes as no longer used.
    pub(crate) fn sub(&self, bytes: usize) {
        self.used.set(self.used.get().saturating_sub(bytes));
    }

    /// Adjusts the charge to the bytes used.
    ///
    /// # Errors
    /// [`Refusal::Memory`] if the budget has no room: the connection has to release memory or end.
    pub(crate) fn settle(&self) -> Result<(), Refusal> {
        let wanted = self.used.get().saturating_sub(FREE);
        let mut hold = self.hold.borrow_mut();
        let held = hold.bytes();
        if wanted > held {
            return hold.grow((wanted - held).next_multiple_of(STEP));
        }
        if held - wanted > SLACK {
            hold.shrink(held - wanted.next_multiple_of(STEP));
        }
        Ok(())
    }

    /// Uses `bytes` until the part is dropped.
    ///
    /// # Errors
    /// [`Refusal::Memory`] if the budget has no room for them.
    pub(crate) fn take(self: &Rc<Self>, bytes: usize) -> Result<Part, Refusal> {
        let mut part = Part { account: Rc::clone(self), bytes: 0 };
        part.raise(bytes)?;
        Ok(part)
    }
}

/// Bytes used for one purpose.
#[derive(Debug)]
pub(crate) struct Part {
    account: Rc<ConnectionMemory>,
    bytes: usize,
}

impl Part {
    /// Raises the use to `bytes`, unless it is higher already.
    ///
    /// # Errors
    /// [`Refusal::Memory`] if the budget has no room; then the use is unchanged.
    pub(crate) fn raise(&mut self, bytes: usize) -> Result<(), Refusal> {
        if bytes <= self.bytes {
            return Ok(());
        }
        let more = bytes - self.bytes;
        self.account.add(more);
        if let Err(refusal) = self.account.settle() {
            self.account.sub(more);
            return Err(refusal);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Lowers the use to `bytes`, if it is higher.
    pub(crate) fn lower(&mut self, bytes: usize) {
        if bytes < self.bytes {
            self.account.sub(self.bytes - bytes);
            self.bytes = bytes;
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.account.sub(self.bytes);
        // Lowering a charge cannot fail.
        let _ = self.account.settle();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::{Kind, Memory};

    #[test]
    fn small_uses_do_not_ask_the_budget_and_large_ones_are_given_back() {
        let memory = Arc::new(Memory::new(0));
        let account = ConnectionMemory::new(memory.hold(&Arc::default(), Kind::Clients));

        let small = account.take(FREE).unwrap();
        assert_eq!(memory.used(), 0);
        let large = account.take(1024 * 1024).unwrap();
        assert_eq!(memory.used(), 1024 * 1024);

        drop(large);
        assert!(memory.used() <= SLACK);
        drop((small, account));
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn what_the_budget_has_no_room_for_is_refused() {
        let memory = Arc::new(Memory::new(0));
        let account = ConnectionMemory::new(memory.hold(&Arc::default(), Kind::Clients));
        let mut part = account.take(1024).unwrap();

        assert!(part.raise(memory.budget() + 2 * FREE).is_err());

        assert_eq!(memory.used(), 0);
        assert!(part.raise(64 * 1024).is_ok());
    }
}
