//! The artifact kinds and their columns.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

/// What an artifact holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The models of a run.
    Models,
    /// Samples as read from the corpus.
    Samples,
    /// The canonical text of each sample.
    Transcripts,
    /// A vocabulary.
    Vocab,
    /// Token ids of each sample in one vocabulary.
    Tokens,
    /// Top-k distributions in the model's own vocabulary.
    Topk,
    /// Negative log-likelihood of each sample under a model.
    SequenceMetrics,
    /// Source positions that correspond to each pivot position.
    Alignment,
    /// How ids of a source vocabulary translate to the pivot's.
    TokenMap,
    /// A source's distributions in the pivot's vocabulary.
    Projected,
    /// What the pivot is trained towards.
    Targets,
    /// Training log.
    Steps,
    /// What each model contributed to a merge.
    MergeStats,
    /// Results of an evaluation, item by item.
    EvalItems,
}

impl Kind {
    /// Every kind, in the order in which a run produces them.
    pub const ALL: [Kind; 14] = [
        Kind::Models,
        Kind::Samples,
        Kind::Transcripts,
        Kind::Vocab,
        Kind::Tokens,
        Kind::Topk,
        Kind::SequenceMetrics,
        Kind::Alignment,
        Kind::TokenMap,
        Kind::Projected,
        Kind::Targets,
        Kind::Steps,
        Kind::MergeStats,
        Kind::EvalItems,
    ];

    /// Version of the kind's columns and of what they mean; a reader refuses any other.
    pub const fn format(self) -> u32 {
        match self {
            // The true token is always listed, readings (3).
            Kind::Projected | Kind::Targets => 3,
            // All that a template gets (3); whether it writes BOS, whole turns (3).
            Kind::Samples | Kind::Transcripts => 3,
            _ => 2,
        }
    }

    /// Name of the folder in a run, and of the SQL table.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Models => "models",
            Kind::Samples => "samples",
            Kind::Transcripts => "transcripts",
            Kind::Vocab => "vocab",
            Kind::Tokens => "tokens",
            Kind::Topk => "topk",
            Kind::SequenceMetrics => "sequence_metrics",
            Kind::Alignment => "alignment",
            Kind::TokenMap => "token_map",
            Kind::Projected => "projected",
            Kind::Targets => "targets",
            Kind::Steps => "steps",
            Kind::MergeStats => "merge_stats",
            Kind::EvalItems => "eval_items",
        }
    }

    /// Keys of the `key=value` folders between the kind's folder and its parts.
    pub const fn partitions(self) -> &'static [&'static str] {
        match self {
            Kind::Models | Kind::Samples => &[],
            Kind::Transcripts => &["template"],
            Kind::Vocab => &["vocab"],
            Kind::Tokens => &["vocab", "template"],
            Kind::Topk
            | Kind::SequenceMetrics
            | Kind::Alignment
            | Kind::TokenMap
            | Kind::Projected => &["teacher"],
            Kind::Targets => &["fusion"],
            Kind::Steps => &["target"],
            Kind::MergeStats => &["merge"],
            Kind::EvalItems => &["model"],
        }
    }

    /// Whether its options say what rows mean (random draws, how many ranks of a map are followed,
    /// the roles of tokens), so that the same rows with others are something else.
    pub const fn options_say_how_to_read(self) -> bool {
        matches!(
            self,
            Kind::Vocab | Kind::Topk | Kind::Alignment | Kind::TokenMap
        )
    }

    /// Columns that the rows of a part are sorted by.
    pub const fn sorted_by(self) -> &'static [&'static str] {
        match self {
            Kind::Models => &["name"],
            Kind::Samples | Kind::Transcripts | Kind::Tokens | Kind::SequenceMetrics => {
                &["sample_id"]
            }
            Kind::Vocab => &["id"],
            Kind::Topk | Kind::Alignment | Kind::Projected | Kind::Targets => &["sample_id", "pos"],
            Kind::TokenMap => &["source_id", "rank"],
            Kind::Steps => &["step"],
            Kind::MergeStats => &["tensor", "model"],
            Kind::EvalItems => &["task", "item_id"],
        }
    }

    /// Whether part *n* holds the samples of part *n* of the corpus.
    pub fn per_sample(self) -> bool {
        self.sorted_by().first() == Some(&"sample_id")
    }

    /// The columns of the files, where they are more compact than those of the rows in memory
    /// ([`encoding`](super::encoding) says what they mean); the same for most kinds.
    pub fn stored_schema(self) -> SchemaRef {
        let fields = match self {
            Kind::Topk => stored_distribution(),
            Kind::Projected => {
                let mut fields = stored_distribution();
                fields.push(label("projection"));
                fields.push(optional("source_nll", DataType::UInt32));
                fields.push(optional("owed", DataType::UInt32));
                fields.push(optional("unknown", DataType::UInt8));
                fields.push(optional("short", DataType::UInt8));
                fields.push(optional("named", DataType::Boolean));
                fields
            }
            Kind::Targets => vec![
                field("sample_id", DataType::UInt64),
                field("pos", DataType::UInt32),
                list("id_gaps", DataType::UInt32),
                field("base_level", DataType::UInt16),
                list("levels", DataType::UInt16),
                field("tail_level", DataType::UInt16),
                field("draws", DataType::UInt16),
                label("winner"),
            ],
            _ => return self.schema(),
        };
        Arc::new(Schema::new(fields))
    }

    /// The columns of the rows in memory. Row `pos` of `topk`, `projected` and `targets` is the
    /// distribution of token `pos + 1`; only rows whose next token is supervised are stored.
    pub fn schema(self) -> SchemaRef {
        let fields: Vec<Field> = match self {
            Kind::Models => vec![
                field("name", DataType::Utf8),
                field("role", DataType::Utf8),
                field("vocabulary", DataType::Utf8),
                field("location", DataType::Utf8),
                field("digest", DataType::Utf8),
                field("architecture", DataType::Utf8),
                field("parameters", DataType::UInt64),
            ],
            Kind::Samples => vec![
                field("sample_id", DataType::UInt64),
                field("source_file", DataType::Utf8),
                field("source_row", DataType::UInt64),
                field("piece", DataType::UInt32),
                field("split", DataType::Utf8),
                list(
                    "messages",
                    DataType::Struct(Fields::from(vec![
                        field("role", DataType::Utf8),
                        optional("content", DataType::Utf8),
                        field("learned", DataType::Boolean),
                        optional("fields", DataType::Utf8),
                    ])),
                ),
                optional("tools", DataType::Utf8),
                optional("template_kwargs", DataType::Utf8),
            ],
            Kind::Transcripts => vec![
                field("sample_id", DataType::UInt64),
                field("text", DataType::Utf8),
                field("bos", DataType::Boolean),
                list(
                    "spans",
                    DataType::Struct(Fields::from(vec![
                        field("role", DataType::Utf8),
                        field("byte_start", DataType::UInt32),
                        field("byte_end", DataType::UInt32),
                        field("supervised", DataType::Boolean),
                    ])),
                ),
            ],
            Kind::Vocab => vec![
                field("id", DataType::UInt32),
                field("token", DataType::Utf8),
                field("bytes", DataType::Binary),
                field("special", DataType::Boolean),
                optional("role", DataType::Utf8),
            ],
            Kind::Tokens => vec![
                field("sample_id", DataType::UInt64),
                list("ids", DataType::UInt32),
                list("byte_end", DataType::UInt32),
                list("supervised", DataType::Boolean),
            ],
            Kind::Topk => distribution(),
            Kind::SequenceMetrics => vec![
                field("sample_id", DataType::UInt64),
                field("nll", DataType::Float64),
                field("tokens", DataType::UInt32),
                field("bytes", DataType::UInt32),
            ],
            Kind::Alignment => vec![
                field("sample_id", DataType::UInt64),
                field("pos", DataType::UInt32),
                field("pivot_id", DataType::UInt32),
                field("source_begin", DataType::UInt32),
                field("source_end", DataType::UInt32),
                list("source_ids", DataType::UInt32),
                optional("source_pos", DataType::UInt32),
                label("kind"),
            ],
            Kind::TokenMap => vec![
                field("source_id", DataType::UInt32),
                field("pivot_id", DataType::UInt32),
                field("count", DataType::UInt64),
                field("weight", DataType::Float32),
                field("edit_distance", DataType::UInt16),
                label("method"),
                field("rank", DataType::UInt16),
            ],
            Kind::Projected => {
                let mut fields = distribution();
                fields.push(label("projection"));
                fields.push(optional("source_nll", DataType::Float32));
                fields.push(optional("owed", DataType::Float32));
                fields.push(optional("unknown", DataType::Float32));
                fields.push(optional("short", DataType::Float32));
                fields.push(optional("named", DataType::Boolean));
                fields
            }
            Kind::Targets => vec![
                field("sample_id", DataType::UInt64),
                field("pos", DataType::UInt32),
                list("ids", DataType::UInt32),
                list("probs", DataType::Float32),
                field("tail", DataType::Float32),
                field("draws", DataType::UInt16),
                label("winner"),
            ],
            Kind::Steps => vec![
                field("step", DataType::UInt64),
                field("lr", DataType::Float64),
                field("loss", DataType::Float64),
                field("loss_clm", DataType::Float64),
                optional("loss_fusion", DataType::Float64),
                optional("kl", DataType::Float64),
                field("grad_norm", DataType::Float64),
                field("tokens", DataType::UInt64),
                optional("valid_loss", DataType::Float64),
                field("wall_ms", DataType::Float64),
            ],
            Kind::MergeStats => vec![
                field("tensor", DataType::Utf8),
                field("model", DataType::Utf8),
                field("coefficient", DataType::Float64),
                field("selected_fraction", DataType::Float64),
                field("kept_fraction", DataType::Float64),
                field("delta_norm", DataType::Float64),
            ],
            Kind::EvalItems => vec![
                field("task", DataType::Utf8),
                field("item_id", DataType::UInt64),
                field("metric", DataType::Utf8),
                field("value", DataType::Float64),
                optional("stderr", DataType::Float64),
                optional("output", DataType::Utf8),
            ],
        };
        Arc::new(Schema::new(fields))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Columns of `topk`: the k most probable tokens by falling probability, and what is left;
/// `draws` is 0, or says from how many random draws the probabilities come.
fn distribution() -> Vec<Field> {
    vec![
        field("sample_id", DataType::UInt64),
        field("pos", DataType::UInt32),
        field("target_id", DataType::UInt32),
        field("target_logprob", DataType::Float32),
        field("tail_logprob", DataType::Float32),
        list("ids", DataType::UInt32),
        list("logprobs", DataType::Float32),
        field("draws", DataType::UInt16),
    ]
}

/// The same as stored.
fn stored_distribution() -> Vec<Field> {
    vec![
        field("sample_id", DataType::UInt64),
        field("pos", DataType::UInt32),
        field("target_place", DataType::UInt16),
        optional("target_other", DataType::UInt32),
        field("target_nll", DataType::UInt32),
        field("tail_level", DataType::UInt16),
        list("id_gaps", DataType::UInt32),
        field("base_level", DataType::UInt16),
        list("levels", DataType::UInt16),
        field("draws", DataType::UInt16),
    ]
}

fn field(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, false)
}

fn optional(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

fn list(name: &str, element: DataType) -> Field {
    field(name, DataType::List(list_element(element)))
}

/// The element field of every list column.
pub(super) fn list_element(element: DataType) -> Arc<Field> {
    Arc::new(Field::new("element", element, false))
}

/// A string from a small set.
fn label(name: &str) -> Field {
    field(
        name,
        DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
    )
}
