//! The functions that decode lists against their own text in SQL.

use std::collections::BTreeSet;

use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;

use super::fixture::{
    lists_u16, stored_lists_u32, u16s, u32s, u32s_or_null, u64s, write_run, write_stored,
};
use super::*;
use crate::artifact::Kind;
use crate::query::functions::{all, written_out};

/// Lists of every length up to three pieces of the text's, and a long one; places before the
/// first, in it and after the last; draws and none.
fn write_lists(run: &RunDir) {
    let mut state = 7u64;
    let mut draw = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % below
    };
    let lengths: Vec<usize> = (0..75).chain([700]).collect();
    let rows = lengths.len();
    let gaps: Vec<Vec<u32>> = { lengths.iter() }
        .map(|length| (0..*length).map(|_| draw(5_000) as u32).collect())
        .collect();
    let levels: Vec<Vec<u16>> = { lengths.iter() }
        .map(|length| (0..*length).map(|_| draw(200) as u16).collect())
        .collect();
    let place = |row: usize| {
        let length = lengths[row];
        [0, 1, length / 2, length, length + 3][row % 5] as u16
    };
    let each = |value: &dyn Fn(usize) -> u16| u16s(&(0..rows).map(value).collect::<Vec<_>>());
    let others: Vec<Option<u32>> = { 0..rows as u32 }
        .map(|row| (row % 2 == 0).then_some(row))
        .collect();
    let gaps: Vec<&[u32]> = gaps.iter().map(Vec::as_slice).collect();
    let levels: Vec<&[u16]> = levels.iter().map(Vec::as_slice).collect();
    let columns = vec![
        u64s(&(0..rows as u64).collect::<Vec<_>>()),
        u32s(&vec![0; rows]),
        each(&place),
        u32s_or_null(&others),
        u32s(&vec![0; rows]),
        each(&|_| 1),
        stored_lists_u32(&gaps),
        each(&|row| [0, 1, 250][row % 3]),
        lists_u16(&levels),
        each(&|row| [0, 32][row % 2]),
    ];
    write_stored(run, Kind::Topk, &["lists"], columns);
}

fn one_batch(session: &Session, sql: &str) -> RecordBatch {
    let batches = session.query(sql, &Params::new()).unwrap();
    concat_batches(&batches[0].schema(), &batches).unwrap()
}

#[test]
fn functions_compute_what_their_text_says() {
    let dir = tempfile::tempdir().unwrap();
    write_lists(&RunDir::new(dir.path()));
    let session = session(dir.path());
    let calls = [
        "id_at(id_gaps, target_place, target_other)",
        "ids_of_gaps(id_gaps)",
        "logprobs_of_levels(levels, base_level, draws)",
        "probs_of_levels(levels, base_level, draws)",
        "rank_at(levels, target_place)",
    ];
    for call in calls {
        let sql = format!("SELECT sample_id, {call} AS found FROM topk_stored ORDER BY sample_id");
        let text = written_out(&sql, session.catalogue().group(Group::Functions));
        assert!(!text.contains(call), "{text}");
        let (found, expected) = (one_batch(&session, &sql), one_batch(&session, &text));
        assert_eq!(found.num_rows(), 76);
        assert_eq!(found.column(1), expected.column(1), "{call}");
    }
    let tested: BTreeSet<&str> = calls.iter().filter_map(|c| c.split('(').next()).collect();
    let files = session.catalogue().group(Group::Functions);
    let files: BTreeSet<&str> = files.map(|script| script.name.as_str()).collect();
    let functions = all();
    let known: BTreeSet<&str> = functions.iter().map(|f| f.name()).collect();
    assert_eq!(tested, files);
    assert_eq!(known, files);
}

#[test]
fn what_is_not_there_is_null() {
    let dir = tempfile::tempdir().unwrap();
    write_run(&RunDir::new(dir.path()));
    let session = session(dir.path());
    let result = session.stream(
        "SELECT ids_of_gaps(NULL::BIGINT[]), ids_of_gaps([]::BIGINT[]), \
         id_at([1, 2], NULL::INT, 7), rank_at([3, 4]::INT[], NULL::INT), \
         logprobs_of_levels([432]::INT[], NULL::INT, 0::INT), \
         probs_of_levels([432]::INT[], 0::INT, 0::INT)",
        &Params::new(),
    );
    assert_eq!(rows(result.unwrap()), ["NULL [] 7 NULL NULL [1.0]"]);
    let error = session.query("SELECT ids_of_gaps([1, NULL])", &Params::new());
    assert!(error.unwrap_err().to_string().contains("a list holds NULL"));
}
