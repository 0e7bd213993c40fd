//! Work spread over the cores of this machine.

use std::{
    num::NonZero,
    sync::{Mutex, PoisonError},
    thread,
};

/// How many threads can work at once.
pub(crate) fn available() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Does `work` with each of `items`, on `n_workers` threads, of which the caller's is one. Each takes the next item when it
/// is done with one, so that unequal ones are shared out well.
pub(crate) fn for_each<T, I: Iterator<Item = T> + Send>(n_workers: usize, items: I, work: impl Fn(T) + Sync) {
    let items = Mutex::new(items);
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(item) = next() {
            work(item);
        }
    };
    thread::scope(|scope| {
        for _ in 1..n_workers {
            // If the system has no thread to give, others take the items.
            if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
}
