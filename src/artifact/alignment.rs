//! Rows of `alignment`: which source tokens correspond to each pivot token.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ListBuilder, StringDictionaryBuilder, UInt32Array, UInt32Builder,
    UInt64Builder,
};
use arrow::datatypes::{DataType, Int32Type, UInt32Type};
use arrow::record_batch::RecordBatch;

use super::Kind;
use super::kind::list_element;
use super::rows::{Labels, Lists, numbers};
use crate::error::{Context, Result};
use crate::units::{SampleId, TokenId};

/// How one pivot token and its source tokens cover the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkKind {
    /// Both cover the same bytes.
    OneToOne,
    /// The pivot token is made of several whole source tokens.
    OneToMany,
    /// The pivot token is a part of one source token.
    ManyToOne,
    /// Spans straddle each other.
    ManyToMany,
    /// No source token: the pivot token has no width.
    Unlinked,
}

impl LinkKind {
    /// Every value.
    pub const ALL: [LinkKind; 5] = [
        LinkKind::OneToOne,
        LinkKind::OneToMany,
        LinkKind::ManyToOne,
        LinkKind::ManyToMany,
        LinkKind::Unlinked,
    ];

    /// The word in the `kind` column (pivot tokens before the hyphen, source tokens after it).
    pub const fn name(self) -> &'static str {
        match self {
            LinkKind::OneToOne => "1-1",
            LinkKind::OneToMany => "1-n",
            LinkKind::ManyToOne => "n-1",
            LinkKind::ManyToMany => "n-m",
            LinkKind::Unlinked => "none",
        }
    }

    /// The value with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|value| value.name() == name)
    }
}

/// What corresponds to one pivot token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// First source position that corresponds.
    pub source_begin: u32,
    /// One past the last source position that corresponds.
    pub source_end: u32,
    /// The source position after which both models have read the same text.
    pub source_pos: Option<u32>,
    /// How the spans relate.
    pub kind: LinkKind,
}

/// Collects rows of `alignment` into batches.
pub struct AlignmentBuilder {
    sample_id: UInt64Builder,
    pos: UInt32Builder,
    pivot_id: UInt32Builder,
    source_begin: UInt32Builder,
    source_end: UInt32Builder,
    source_ids: ListBuilder<UInt32Builder>,
    source_pos: UInt32Builder,
    kind: StringDictionaryBuilder<Int32Type>,
    rows: usize,
}

impl Default for AlignmentBuilder {
    fn default() -> Self {
        let element = list_element(DataType::UInt32);
        Self {
            sample_id: UInt64Builder::new(),
            pos: UInt32Builder::new(),
            pivot_id: UInt32Builder::new(),
            source_begin: UInt32Builder::new(),
            source_end: UInt32Builder::new(),
            source_ids: ListBuilder::new(UInt32Builder::new()).with_field(element),
            source_pos: UInt32Builder::new(),
            kind: StringDictionaryBuilder::new(),
            rows: 0,
        }
    }
}

impl AlignmentBuilder {
    /// Appends the row of pivot token `pos`; `source_ids` are the tokens with width in
    /// `link.source_begin..link.source_end` (BOS for BOS).
    pub fn push(
        &mut self,
        sample: SampleId,
        pos: u32,
        pivot_id: TokenId,
        link: Link,
        source_ids: impl IntoIterator<Item = TokenId>,
    ) {
        self.rows += 1;
        self.sample_id.append_value(sample);
        self.pos.append_value(pos);
        self.pivot_id.append_value(pivot_id);
        self.source_begin.append_value(link.source_begin);
        self.source_end.append_value(link.source_end);
        for id in source_ids {
            self.source_ids.values().append_value(id);
        }
        self.source_ids.append(true);
        self.source_pos.append_option(link.source_pos);
        self.kind.append_value(link.kind.name());
    }

    /// Rows since the last [`AlignmentBuilder::finish`].
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Takes the rows collected so far.
    pub fn finish(&mut self) -> Result<RecordBatch> {
        self.rows = 0;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.sample_id.finish()),
            Arc::new(self.pos.finish()),
            Arc::new(self.pivot_id.finish()),
            Arc::new(self.source_begin.finish()),
            Arc::new(self.source_end.finish()),
            Arc::new(self.source_ids.finish()),
            Arc::new(self.source_pos.finish()),
            Arc::new(self.kind.finish()),
        ];
        RecordBatch::try_new(Kind::Alignment.schema(), columns)
            .during(|| "building `alignment` rows".into())
    }
}

/// The rows of a batch of `alignment`.
pub struct Links<'a> {
    pos: &'a [u32],
    pivot_id: &'a [TokenId],
    source_begin: &'a [u32],
    source_end: &'a [u32],
    source_ids: Lists<'a, UInt32Type>,
    source_pos: &'a UInt32Array,
    kind: Labels<'a, LinkKind>,
}

impl<'a> Links<'a> {
    /// The rows of `batch`.
    pub fn new(batch: &'a RecordBatch) -> Result<Self> {
        Ok(Self {
            pos: numbers::<UInt32Type>(batch, "pos")?.values(),
            pivot_id: numbers::<UInt32Type>(batch, "pivot_id")?.values(),
            source_begin: numbers::<UInt32Type>(batch, "source_begin")?.values(),
            source_end: numbers::<UInt32Type>(batch, "source_end")?.values(),
            source_ids: Lists::new(batch, "source_ids")?,
            source_pos: numbers::<UInt32Type>(batch, "source_pos")?,
            kind: Labels::new(batch, "kind", LinkKind::from_name)?,
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.pos.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.pos.is_empty()
    }

    /// The pivot positions.
    pub fn positions(&self) -> &'a [u32] {
        self.pos
    }

    /// The pivot tokens, one for each row.
    pub fn pivot_ids(&self) -> &'a [TokenId] {
        self.pivot_id
    }

    /// The source tokens of a row.
    ///
    /// # Panics
    /// If there is no such row, as in [`Links::row`].
    pub fn source_ids(&self, row: usize) -> &'a [TokenId] {
        self.source_ids.row(row)
    }

    /// One row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> Link {
        Link {
            source_begin: self.source_begin[row],
            source_end: self.source_end[row],
            source_pos: (!self.source_pos.is_null(row)).then(|| self.source_pos.value(row)),
            kind: self.kind.row(row),
        }
    }
}
