//! The `fuselm` program: arguments in, exit code out.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod cli;

use std::process::ExitCode;

/// candle allocates large buffers often; the system's allocator costs it a third of its speed.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // candle's own pool for elementwise operations spins at a barrier and fights with the
    // threads that compute batches side by side; matrix products do not use it.
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        // SAFETY: no other thread exists yet.
        unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    }
    cli::main()
}
