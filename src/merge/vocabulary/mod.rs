//! The vocabulary of the output, and embeddings placed by token.
//!
//! Without `tokenizer_source` and `tokenizer`, tensors are merged row by row and the base model's
//! tokenizer is copied. With one of them, tensors with a row for each token (embeddings and heads)
//! are rearranged before they are merged, so that row i of every model stands for token i of the
//! output:
//!
//! ```text
//! tokenizer.json of each model ──► output's tokens ──► place() ──► Placement ──► Gathered
//! ```
//!
//! **Tokens.** `base`: those of the base model (of the first model where there is none). A
//! model's path: those of that model, which need not be among the merged ones. `union`: those of
//! the base with their ids, then for each other model, in the order of the configuration, its
//! tokens that are still missing, by id. Tokens under `tokens:` that are still missing come last.
//! Tokens whose ids are beyond the rows of their model's embedding are left out (of the tokenizer,
//! too). Rows of an embedding beyond its tokens (padding) are not taken over.
//!
//! **Rows.** A model that has a token keeps its row for it. For one that lacks it, the first of
//! these that holds:
//!
//! 1. the `source` under `tokens:` (the same token of a model, another token or row, zeros);
//! 2. the base model's row, if it takes part in the tensor and has the token;
//! 3. the row of the only model that has the token;
//! 4. the mean of the rows of all models that have it;
//! 5. zeros: no model that takes part has the token.
//!
//! An embedding that every layer adds (Gemma 3n) may have rows for the first tokens only; the model
//! reads row 0 for the others, and so do the placed rows.
//!
//! With `force: true` this holds for models that have the token, too. The output has one row for
//! each id; the number of rows is rounded up to `pad_to_multiple_of`. Rows without a token hold,
//! model by model, the mean of the rows with one.
//!
//! **Files.** `tokenizer.json` is that of the base (or the model named) with the new tokens as
//! added tokens, with the settings of the first model that has them as such. Added tokens are
//! looked for before all others: ordinary pieces of another tokenizer, added to this one, change
//! how text is split. `vocab_size` follows; if the tokenizer is not the base's, the ids of special
//! tokens in `config.json` and `generation_config.json`, also in objects within these, are those of its
//! model, or of the same tokens where its model says nothing.
//!
//! This is what mergekit 0.1.5 does, but for these:
//!
//! * It goes through models and new tokens in an arbitrary order: ids of a union differ from run to
//!   run, as does the base where none is configured.
//! * It stops with a `KeyError` where another model than the base has tokens beyond its rows, and
//!   with an index error where ids are missing between tokens.
//! * With `base`, it takes rows of the base's padding for those of tokens that `tokens:` adds.
//! * It takes a model without a tokenizer for one with the base's; here that is an error.
//! * A token under `tokens:` that is an added token of some model is added with that model's
//!   settings (special tokens stay special), and `source` may be left out.
//! * It keeps the base's ids of special tokens in `config.json` with any tokenizer.

mod additions;
mod describe;
mod differences;
mod files;
mod gather;
mod ids;
mod models;
mod names;
mod place;
mod prepare;
mod tokens;

pub(super) use describe::describe;
pub(super) use differences::differences;
pub(super) use files::Files;
pub(super) use gather::Gathered;
pub(super) use models::Vocabulary;
pub(super) use names::{is_by_token, is_per_layer, may_be_by_token};
pub(super) use place::Placement;
pub(super) use prepare::prepare;
