//! What a user sees on stderr while work goes on, and the user's wish to stop it.
//!
//! A terminal gets a bar with rate and time left; anything else gets a plain line at most
//! every ten seconds. stdout is never touched: it is for data.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::{LazyLock, Mutex};

use crate::error::{Error, Result};
use crate::units::{Count, Elapsed, Rate};

static QUIET: AtomicBool = AtomicBool::new(false);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Wishes to stop that were taken back: what was meant for one of them is not meant for the next.
static FORGOTTEN: AtomicUsize = AtomicUsize::new(0);
/// What would be lost if the program ended at once.
static KEEPING: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

/// How long a wish to stop waits for the work to notice it.
const PATIENCE: Duration = Duration::from_millis(1500);

/// How often a plain line is written where stderr is no terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Silences bars and notes (warnings are still written).
pub fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// Records that the user wants to stop; [`check_interrupt`] then fails. Work that does not notice it
/// soon, whatever it reads, is ended by `end`: nothing that is written is ever half in its place, so
/// that only time is lost. While something is [kept](keep_until_dropped) the user is told so instead.
pub fn interrupt(end: fn()) {
    INTERRUPTED.store(true, Ordering::SeqCst);
    let wish = FORGOTTEN.load(Ordering::SeqCst);
    let still = move || check_interrupt().is_err() && FORGOTTEN.load(Ordering::SeqCst) == wish;
    let wait = move || {
        let mut said = false;
        std::thread::sleep(PATIENCE);
        while still() {
            let Some(what) = kept() else { return end() };
            if !said {
                note(format!("stopping: {what}; Ctrl-C again ends at once"));
            }
            said = true;
            std::thread::sleep(PATIENCE / 10);
        }
    };
    if std::thread::Builder::new().spawn(wait).is_err() {
        end();
    }
}

fn kept() -> Option<&'static str> {
    KEEPING.lock().ok()?.last().copied()
}

/// Something that a stop waits for, as long as this lives.
pub struct Kept(());

/// Lets a wish to stop wait; `what` says for what, as in "saving the state after this batch".
pub fn keep_until_dropped(what: &'static str) -> Kept {
    if let Ok(mut keeping) = KEEPING.lock() {
        keeping.push(what);
    }
    Kept(())
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Ok(mut keeping) = KEEPING.lock() {
            keeping.pop();
        }
    }
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
    FORGOTTEN.fetch_add(1, Ordering::SeqCst);
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

/// A bar's parts; with a loss there is room for the bar itself on 70 columns.
const TEMPLATE: &str = "{prefix:>14} {wide_bar} {human_pos}/{human_len}  {rate}  {eta} left  {msg}";

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
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            let rate = |state: &ProgressState, text: &mut dyn fmt::Write| {
                let _ = write!(text, "{}/s", Rate(state.per_sec()));
            };
            bar.set_style(style.with_key("rate", rate));
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
                "{}: {} of {} {} ({}/s, {} left)",
                self.label,
                Count(done),
                Count(total),
                self.unit,
                Rate(rate),
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
