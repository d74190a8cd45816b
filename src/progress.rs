//! What a user sees on stderr while work goes on, and the user's wish to stop it.
//!
//! A terminal gets a bar with rate and time left; anything else gets a plain line at most
//! every ten seconds. stdout is never touched: it is for data.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::{LazyLock, Mutex};

use crate::error::{Error, Result};
use crate::units::{Count, Elapsed};

static QUIET: AtomicBool = AtomicBool::new(false);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// How often a plain line is written where stderr is no terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Silences bars and notes (warnings are still written).
pub fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// Records that the user wants to stop; [`check_interrupt`] then fails.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// Fails with [`Error::Interrupted`] once the user has asked to stop.
///
/// Stages call it between batches, so that a stop takes effect within about a second.
pub fn check_interrupt() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) {
        return Err(Error::Interrupted);
    }
    Ok(())
}

/// Takes the wish to stop back, once what it was meant for has stopped and the program goes on.
pub fn forget_interrupt() {
    INTERRUPTED.store(false, Ordering::SeqCst);
}

/// Writes a line of information to stderr.
pub fn note(message: impl AsRef<str>) {
    if !QUIET.load(Ordering::Relaxed) {
        line(message.as_ref());
    }
}

/// Writes a warning to stderr, also when quiet.
pub fn warn(message: impl AsRef<str>) {
    line(&format!("warning: {}", message.as_ref()));
}

/// Writes a warning to stderr, the first time that it is given: what is wrong with a file is said
/// once, however often the file is read.
pub fn warn_once(message: impl AsRef<str>) {
    static SAID: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);
    let message = message.as_ref();
    let new = SAID
        .lock()
        .map_or(true, |mut said| said.insert(message.to_owned()));
    if new {
        warn(message);
    }
}

fn line(message: &str) {
    BARS.suspend(|| {
        // A closed stderr must not stop the work.
        let _ = writeln!(std::io::stderr(), "{message}");
    });
}

/// One progress bar; it vanishes when dropped.
pub struct Bar {
    bar: ProgressBar,
    label: String,
    unit: &'static str,
    plain: Option<Mutex<Instant>>,
    started: Instant,
}

impl Bar {
    /// A bar over `total` units of work (`unit` in the plural: "tokens", "samples").
    pub fn new(label: impl Into<String>, total: u64, unit: &'static str) -> Self {
        let label = label.into();
        let quiet = QUIET.load(Ordering::Relaxed);
        let terminal = std::io::stderr().is_terminal();
        let bar = if quiet || !terminal {
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden())
        } else {
            BARS.add(ProgressBar::new(total))
        };
        let template = format!(
            "{{prefix:>14}} {{wide_bar}} {{human_pos}}/{{human_len}} {unit}  {{per_sec}}  {{eta}} left {{msg}}"
        );
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        bar.set_prefix(label.clone());
        Self {
            bar,
            label,
            unit,
            plain: (!quiet && !terminal).then(|| Mutex::new(Instant::now())),
            started: Instant::now(),
        }
    }

    /// Adds `units` of finished work.
    pub fn advance(&self, units: u64) {
        self.bar.inc(units);
        let Some(last) = &self.plain else { return };
        let Ok(mut last) = last.lock() else { return };
        if last.elapsed() >= PLAIN_EVERY {
            *last = Instant::now();
            let (done, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
            let elapsed = self.started.elapsed();
            let rate = done as f64 / elapsed.as_secs_f64();
            let left = Duration::from_secs_f64(total.saturating_sub(done) as f64 / rate.max(1e-9));
            line(&format!(
                "{}: {} of {} {} ({:.0}/s, {} left)",
                self.label,
                Count(done),
                Count(total),
                self.unit,
                rate,
                Elapsed(left)
            ));
        }
    }

    /// Sets the short text at the end of the bar (a loss, say).
    pub fn message(&self, text: String) {
        self.bar.set_message(text);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
