//! Batches of a result as they come, on the caller's thread.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::dataframe::DataFrame;
use datafusion::error::DataFusionError;
use futures::StreamExt;
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;

use super::session::sql_error;
use super::width::batch_rows;
use crate::error::{Context, Error, Result};
use crate::progress;

/// How soon a wish to stop is noticed while a statement computes its next batch.
const INTERRUPT_EVERY: Duration = Duration::from_millis(200);
/// Batches computed ahead of the reader.
const AHEAD: usize = 2;

/// A result, batch by batch; dropping it stops the statement.
///
/// # Memory
/// Three batches, beside what the statement itself holds.
pub struct Batches {
    schema: SchemaRef,
    receiver: Receiver<Result<RecordBatch, DataFusionError>>,
    task: Option<(Handle, JoinHandle<()>)>,
}

/// How a statement ended.
#[derive(PartialEq, Eq)]
enum Outcome {
    /// Its result, or its error, is with the reader.
    Sent,
    /// It needs more memory than it may use, and nothing was sent.
    TooLarge,
}

/// Sends the batches of a result; with `may_retry`, nothing if the first of them needs too much
/// memory.
async fn forward(
    frame: DataFrame,
    sender: &SyncSender<Result<RecordBatch, DataFusionError>>,
    may_retry: bool,
) -> Outcome {
    let mut stream = match frame.execute_stream().await {
        Ok(stream) => stream,
        Err(error) => {
            let _ = sender.send(Err(error));
            return Outcome::Sent;
        }
    };
    let mut first = may_retry;
    while let Some(batch) = stream.next().await {
        if let Err(error) = &batch
            && first
            && matches!(error.find_root(), DataFusionError::ResourcesExhausted(_))
        {
            return Outcome::TooLarge;
        }
        first = false;
        if sender.send(batch).is_err() {
            break;
        }
    }
    Outcome::Sent
}

/// The same statement with joins that sort both sides, which spills to disk, instead of holding
/// one of them in memory, which is faster where it fits.
fn with_sorted_joins(frame: DataFrame) -> DataFrame {
    let (mut state, plan) = frame.into_parts();
    state.config_mut().options_mut().optimizer.prefer_hash_join = false;
    DataFrame::new(state, plan)
}

/// The same statement with as many rows in a batch as their width allows.
fn with_batch_rows(frame: DataFrame) -> DataFrame {
    let (mut state, plan) = frame.into_parts();
    *state.config_mut() = state.config().clone().with_batch_size(batch_rows(&plan));
    DataFrame::new(state, plan)
}

impl Batches {
    pub(super) fn start(runtime: &Runtime, frame: DataFrame) -> Result<Self> {
        let schema = SchemaRef::new(frame.schema().as_arrow().clone());
        let (sender, receiver) = sync_channel(AHEAD);
        let task = runtime.spawn(async move {
            // Here, where stacks are deep and views are not only made.
            let frame = with_batch_rows(frame);
            let spare = frame.clone();
            if forward(frame, &sender, true).await == Outcome::TooLarge {
                forward(with_sorted_joins(spare), &sender, false).await;
            }
        });
        Ok(Self {
            schema,
            receiver,
            task: Some((runtime.handle().clone(), task)),
        })
    }

    /// Whether the statement came to its end: one that panicked, or whose session is gone, must
    /// not look like one with fewer rows.
    fn ended(&mut self) -> Option<Result<RecordBatch>> {
        let (runtime, task) = self.task.take()?;
        let ended = runtime.block_on(task);
        ended
            .during(|| "running a SQL statement".into())
            .err()
            .map(Err)
    }

    /// The columns of the result.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Err(stop) = progress::check_interrupt() {
                return Some(Err(stop));
            }
            match self.receiver.recv_timeout(INTERRUPT_EVERY) {
                Ok(Ok(batch)) if batch.num_rows() == 0 => {}
                Ok(batch) => return Some(batch.map_err(sql_error)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.ended(),
            }
        }
    }
}
