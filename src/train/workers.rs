//! Micro batches side by side, their results in order.
//!
//! Matrix products of small models are too short for several threads to share one, and between the
//! products of large ones there is work for one thread. So each worker computes whole micro batches
//! in a pool of its own, and results are consumed strictly in the order of the micro batches: sums
//! of floats come out the same for any number of workers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Context, Error, Result};

/// Threads that compute micro batches; none means the caller's thread.
#[derive(Debug)]
pub struct Workers {
    pools: Vec<ThreadPool>,
}

/// Whose turn it is to consume, and what went wrong.
struct Turn<F> {
    next: usize,
    error: Option<Error>,
    consume: F,
}

impl Workers {
    /// `count` workers that share the caller's threads, one for each at least; with one or none,
    /// work is done by the caller with all threads.
    pub fn new(count: usize) -> Result<Self> {
        let threads = rayon::current_num_threads();
        let share = |i: usize| ((threads + i) / count.max(1)).max(1);
        let pool = |i| ThreadPoolBuilder::new().num_threads(share(i)).build();
        let pools = match count {
            0 | 1 => Vec::new(),
            _ => (0..count)
                .map(pool)
                .collect::<std::result::Result<_, _>>()
                .during(|| "starting worker threads".to_owned())?,
        };
        Ok(Self { pools })
    }

    /// Computes `0..count` and consumes the results in rising order.
    ///
    /// # Errors
    /// The first error of `compute` or `consume`; what is under way is still computed.
    pub fn in_order<T: Send>(
        &self,
        count: usize,
        compute: impl Fn(usize) -> Result<T> + Sync,
        consume: impl FnMut(usize, T) -> Result<()> + Send,
    ) -> Result<()> {
        if self.pools.is_empty() || count < 2 {
            let mut consume = consume;
            return (0..count).try_for_each(|i| consume(i, compute(i)?));
        }
        let turn = Mutex::new(Turn {
            next: 0,
            error: None,
            consume,
        });
        let (changed, unclaimed) = (Condvar::new(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for pool in self.pools.iter().take(count) {
                let work = || {
                    loop {
                        let i = unclaimed.fetch_add(1, Ordering::Relaxed);
                        if i >= count || lock(&turn).error.is_some() {
                            return;
                        }
                        let result = compute(i);
                        let mut turn = lock(&turn);
                        while turn.next != i && turn.error.is_none() {
                            turn = changed.wait(turn).unwrap_or_else(PoisonError::into_inner);
                        }
                        if turn.error.is_some() {
                            return;
                        }
                        match result.and_then(|result| (turn.consume)(i, result)) {
                            Ok(()) => turn.next += 1,
                            Err(error) => turn.error = Some(error),
                        }
                        changed.notify_all();
                    }
                };
                scope.spawn(move || pool.install(work));
            }
        });
        let turn = turn.into_inner().unwrap_or_else(PoisonError::into_inner);
        turn.error.map_or(Ok(()), Err)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_the_threads() {
        let pool = ThreadPoolBuilder::new().num_threads(7).build().unwrap();
        let sizes = |count| -> Vec<usize> {
            let workers = pool.install(|| Workers::new(count)).unwrap();
            let pools = workers.pools.iter();
            pools.map(ThreadPool::current_num_threads).collect()
        };
        assert!(sizes(1).is_empty());
        assert_eq!(sizes(2), [3, 4]);
        assert_eq!(sizes(7), [1; 7]);
        assert_eq!(sizes(9), [1; 9]);
    }

    #[test]
    fn results_come_in_order_and_errors_stop_the_work() {
        for workers in [1, 2, 5] {
            let workers = Workers::new(workers).unwrap();
            let mut seen = Vec::new();
            let slow_first = |i: usize| {
                std::thread::sleep(std::time::Duration::from_millis(3 * (7 - i as u64)));
                Ok(i * i)
            };
            let consume = |i, square| {
                seen.push((i, square));
                Ok(())
            };
            workers.in_order(7, slow_first, consume).unwrap();
            assert_eq!(seen, (0..7).map(|i| (i, i * i)).collect::<Vec<_>>());

            let mut consumed = 0;
            let fails = |i| {
                if i == 3 {
                    Err(Error::usage("three"))
                } else {
                    Ok(())
                }
            };
            let error = workers.in_order(7, fails, |_, ()| {
                consumed += 1;
                Ok(())
            });
            assert_eq!(error.unwrap_err().to_string(), "three");
            assert_eq!(consumed, 3);
        }
    }
}
