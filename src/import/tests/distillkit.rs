use arrow::datatypes::{UInt8Type, UInt64Type};
use parquet::arrow::ArrowWriter;

use super::super::distillkit::{Config, Unpacker};
use super::*;

/// Packs whole numbers, the most significant bit first.
fn pack(numbers: &[u64], width: usize) -> Vec<u8> {
    let mut bytes = vec![0u8; (numbers.len() * width).div_ceil(8)];
    for (at, number) in numbers.iter().enumerate() {
        for bit in 0..width {
            if number >> (width - 1 - bit) & 1 == 1 {
                let place = at * width + bit;
                bytes[place / 8] |= 1 << (7 - place % 8);
            }
        }
    }
    bytes
}

const CONFIG: &str = "d: 6\nk: 3\nexact_k: 1\nexact_dtype: float32\npolynomial_terms: [0, 1]\n\
    term_dtype: float32\nresidual_bins: []\ndelta_encoding: false\nerror_diffusion: false\n";

/// ln 0.5 exactly, then ln 0.25 and ln 0.125 on a line.
pub(super) fn token() -> Vec<u8> {
    let ln2 = 2f32.ln();
    let values = [-ln2, -2.0 * ln2, -ln2];
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn distillkit_tokens_by_hand() {
    let unpacker = |config: &str| Unpacker::new(Config::parse(config).unwrap());
    let plain = unpacker(CONFIG);
    let found = plain.logprobs(&token()).unwrap();
    for (at, x) in found.iter().enumerate() {
        assert!(
            (x + (at as f32 + 1.0) * 2f32.ln()).abs() < 1e-6,
            "{found:?}"
        );
    }
    // 101 001 011, and seven bits of filling.
    assert_eq!(plain.ids(&[0b1010_0101, 0b1000_0000]).unwrap(), [5, 1, 3]);
    assert!(plain.ids(&[0; 3]).unwrap_err().contains("3 bytes of ids"));
    assert!(
        plain
            .logprobs(&token()[1..])
            .unwrap_err()
            .contains("too few")
    );
    let long = [token(), vec![0]].concat();
    assert!(plain.logprobs(&long).unwrap_err().contains("1 too many"));

    // Differences, bfloat16, a square root over [0, 1], residuals of 4 bits and of 1.
    let config = "d: 152000\nk: 4\nexact_k: 1\nexact_dtype: bfloat16\n\
        polynomial_terms: [0, sqrt]\nterm_dtype: float16\nnormalize_t: true\n\
        residual_bins:\n- {scale_dtype: float32, element_bits: 4, num_elements: 2}\n\
        - {scale_dtype: float64, element_bits: 1, num_elements: 1}\n";
    let mut bytes = half::bf16::from_f32(-0.5).to_le_bytes().to_vec();
    bytes.extend(half::f16::from_f32(-1.0).to_le_bytes());
    bytes.extend(half::f16::from_f32(0.25).to_le_bytes());
    bytes.extend(0.125f32.to_le_bytes());
    bytes.extend(pack(&[8 + 3, 8 - 2], 4));
    bytes.extend(0.0625f64.to_le_bytes());
    bytes.extend(pack(&[1], 1));
    // f16 holds the square root of 1/2 as 0.70703.
    let root = 0.707_031_25;
    let steps = [
        -0.5,
        -1.0 + 0.375,
        -1.0 + 0.25 * root - 0.25,
        -0.75 + 0.0625,
    ];
    let mut sum = 0.0;
    for (found, step) in unpacker(config).logprobs(&bytes).unwrap().iter().zip(steps) {
        sum += step;
        assert!((found - sum).abs() < 1e-6, "{found} {sum}");
    }
    let ids = unpacker(config).ids(&pack(&[151_999, 0, 7, 131_072], 18));
    assert_eq!(ids.unwrap(), [151_999, 0, 7, 131_072]);

    for bad in [
        "d: 6\nk: 3\nexact_k: 4\n",
        "d: 6\nk: 0\nexact_k: 0\n",
        "d: 6\nk: 3\nexact_k: 1\nresidual_bins: [{scale_dtype: float32, element_bits: 4, num_elements: 3}]\n",
        "d: 6\nk: 3\nexact_k: 1\nresidual_bins: [{scale_dtype: float32, element_bits: 0, num_elements: 1}]\n",
        "k: 3\nexact_k: 1\n",
        "d: 6\nk: 3\nexact_k: 1\nexact_dtype: float8\n",
        // Its sum would wrap.
        "d: 6\nk: 3\nexact_k: 1\nresidual_bins: [{scale_dtype: float32, element_bits: 4, num_elements: 18446744073709551615}, {scale_dtype: float32, element_bits: 4, num_elements: 2}]\n",
        "d: 6\nk: 3\nexact_k: 1\nresidual_bins: [{scale_dtype: float32, element_bits: 65, num_elements: 1}]\n",
        // Nothing says what the other two are.
        "d: 6\nk: 3\nexact_k: 1\nresidual_bins: []\n",
        "d: 6\nk: 3\nexact_k: -1\npolynomial_terms: [0]\n",
        "d: 6\nk: 3\nexact_k: 3\nlog_base: 2\n",
        "d: 6\nk: 3\nexact_k: 1\nresidual_bins: [{scale_dtype: float32, element_bits: 4, num_elements: 1, bias: 1}]\n",
        "d: 6\nk: 3\nexact_k: 1\npolynomial_terms: [cos]\n",
    ] {
        assert!(Config::parse(bad).is_err(), "{bad}");
    }
    for good in [
        "\u{feff}d: 6\r\nk: 3\r\nexact_k: 3\r\n",
        "d: 6\nk: 3\nexact_k: 1\nerror_diffusion: true\npolynomial_terms: [0]\nresidual_bins: []\n",
        "d: 6\nk: 3\nexact_k: 1\nresidual_bins: [{scale_dtype: float32, element_bits: 64, num_elements: 2}]\n",
    ] {
        assert!(Config::parse(good).is_ok(), "{good}");
    }
}

fn save_distillkit(dir: &Path, token: &[u8], extra: usize) {
    save_samples(dir, &IDS, token, extra);
}

/// A file for each sample, with so many distributions more than there are tokens but the first.
pub(super) fn save_samples(dir: &Path, samples: &[&[u32]], token: &[u8], extra: usize) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("compression_config.yaml"), CONFIG).unwrap();
    for (at, ids) in samples.iter().enumerate() {
        let count = ids.len() - 1 + extra;
        let ids: Vec<u64> = ids.iter().map(|id| u64::from(*id)).collect();
        let path = dir.join(format!("data_{at}.parquet"));
        save_rows(
            &path,
            ids,
            vec![token.to_vec(); count],
            vec![pack(&[2, 3, 5], 3); count],
        );
    }
}

/// A file of one sample.
fn save_rows(path: &Path, ids: Vec<u64>, logprobs: Vec<Vec<u8>>, packed: Vec<Vec<u8>>) {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("input_ids", flat::<UInt64Type>(vec![ids])),
        ("compressed_logprobs", nested::<UInt8Type>(&[logprobs])),
        ("bytepacked_indices", nested::<UInt8Type>(&[packed])),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn distillkit_files() {
    for extra in [0, 1] {
        let place = Place::new();
        save_distillkit(&place.at("kit"), &token(), extra);
        let summary = place.import(Format::Distillkit, "kit").unwrap();
        // Tokens 1 and 4 are not listed.
        assert_eq!((summary.rows, summary.bounded), (5, 2));
        let rows = place.rows();
        let list = &rows[1].5;
        assert_eq!(list.iter().map(|e| e.0).collect::<Vec<_>>(), [2, 3, 5]);
        for (entry, prob) in list.iter().zip([0.5, 0.25, 0.125]) {
            assert!(near(entry.1, prob), "{list:?}");
        }
        assert!(near(rows[1].4, 0.125) && near(rows[0].3, 0.125));
    }
}

#[test]
fn broken_distillkit_files() {
    let place = Place::new();
    save_distillkit(&place.at("kit"), &token()[4..], 0);
    let error = place.error(Format::Distillkit, "kit");
    assert!(
        error.contains("data_0.parquet row 0") && error.contains("too few"),
        "{error}"
    );
    save_distillkit(&place.at("kit"), &token(), 3);
    assert!(
        place
            .error(Format::Distillkit, "kit")
            .contains("4 tokens with 6 lists")
    );
    save_distillkit(&place.at("kit"), &token(), 0);
    let file = place.at("kit/data_1.parquet");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 9]).unwrap();
    assert!(
        place
            .error(Format::Distillkit, "kit")
            .contains("data_1.parquet")
    );
    fs::write(&file, &whole).unwrap();
    fs::remove_file(place.at("kit/compression_config.yaml")).unwrap();
    let error = place.error(Format::Distillkit, "kit");
    assert!(error.contains("compression_config.yaml"), "{error}");
    fs::create_dir(place.at("none")).unwrap();
    assert!(
        place
            .error(Format::Distillkit, "none")
            .contains("*.parquet")
    );
}

#[test]
fn distillkit_samples_with_padding_and_in_any_order() {
    for samples in [
        [&[0, 4, 5, PAD][..], &[0, 1, 2, 3, PAD]],
        [&[0, 4, 5, EOS], &[0, 1, 2, 3]],
    ] {
        let place = Place::new();
        save_samples(&place.at("kit"), &samples, &token(), 0);
        let summary = place.import(Format::Distillkit, "kit").unwrap();
        let more = samples
            .iter()
            .filter(|ids| ids.len() > 3 && ids[ids.len() - 1] >= EOS);
        assert_eq!((summary.rows, summary.end_more), (5, more.count() as u64));
        assert!(summary.reordered && summary.end_less == 0);
        let rows: Vec<_> = place.rows().iter().map(|r| (r.0, r.1, r.2)).collect();
        assert_eq!(
            rows,
            [(0, 0, 1), (0, 1, 2), (0, 2, 3), (1, 0, 4), (1, 1, 5)]
        );
    }
}

/// Where a file lacks the end token, its last distribution is about it.
#[test]
fn distillkit_distributions_of_what_follows() {
    for (extra, rows) in [(0, 2), (1, 3)] {
        let place = Place::of(&[&[0, 4, 5, EOS]]);
        save_samples(&place.at("kit"), &[&[0, 4, 5]], &token(), extra);
        let summary = place.import(Format::Distillkit, "kit").unwrap();
        assert_eq!((summary.rows, summary.end_less), (rows, 1));
    }
}

#[test]
fn distillkit_lists_that_are_no_distributions() {
    let ln2 = 2f32.ln();
    let bytes =
        |values: [f32; 3]| -> Vec<u8> { values.iter().flat_map(|x| x.to_le_bytes()).collect() };
    for (values, words) in [
        // The exact entry alone.
        (
            [0.1, -2.0 * ln2, -ln2],
            "exact part of its list holds 1.105",
        ),
        ([f32::NAN, -2.0 * ln2, -ln2], "NaN is no log-probability"),
        // A line from ln 1/2 on: the list holds 1.25.
        ([-ln2, -ln2, -ln2], "its list holds 1.250"),
    ] {
        let place = Place::new();
        save_distillkit(&place.at("kit"), &bytes(values), 0);
        let error = place.error(Format::Distillkit, "kit");
        assert!(error.contains(words), "{error}");
        assert!(
            error.contains("data_0.parquet row 0 token 1 (sample 0)"),
            "{error}"
        );
    }
    // 1/2, then 0.35 and 0.2, as far as an approximation may be off.
    let place = Place::new();
    let line = [-ln2, 0.35f32.ln(), 0.2f32.ln() - 0.35f32.ln()];
    save_distillkit(&place.at("kit"), &bytes(line), 0);
    let summary = place.import(Format::Distillkit, "kit").unwrap();
    assert_eq!((summary.rows, summary.scaled), (5, 5));
    assert!(near(place.rows()[1].5[0].1, 0.5 / 1.05));
}

/// Places that were not filled hold minus infinity and any id.
#[test]
fn distillkit_places_that_were_not_filled() {
    let config = "d: 513\nk: 3\nexact_k: 3\nresidual_bins: []\ndelta_encoding: false\n";
    let place = Place::new();
    save_distillkit(&place.at("kit"), &token(), 0);
    fs::write(place.at("kit/compression_config.yaml"), config).unwrap();
    for (at, ids) in IDS.iter().enumerate() {
        let count = ids.len() - 1;
        let values = [0.75f32.ln(), f32::NEG_INFINITY, f32::NEG_INFINITY];
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let ids: Vec<u64> = ids.iter().map(|id| u64::from(*id)).collect();
        save_rows(
            &place.at(&format!("kit/data_{at}.parquet")),
            ids,
            vec![bytes; count],
            vec![pack(&[2, 900, 900], 10); count],
        );
    }
    let summary = place.import(Format::Distillkit, "kit").unwrap();
    assert_eq!((summary.rows, summary.padded), (5, 0));
    let rows = place.rows();
    assert_eq!(rows[1].5.iter().map(|e| e.0).collect::<Vec<_>>(), [2]);
    assert!(near(rows[1].3, 0.75) && near(rows[1].4, 0.25));
}

#[test]
fn distillkit_ids_of_rows_that_fill_up_the_head() {
    let place = Place::new();
    save_distillkit(&place.at("kit"), &token(), 0);
    let wide = |list: &[u64]| {
        let config = CONFIG.replace("d: 6", "d: 2000");
        fs::write(place.at("kit/compression_config.yaml"), config).unwrap();
        for (at, ids) in IDS.iter().enumerate() {
            let count = ids.len() - 1;
            let ids: Vec<u64> = ids.iter().map(|id| u64::from(*id)).collect();
            let path = place.at(&format!("kit/data_{at}.parquet"));
            save_rows(
                &path,
                ids,
                vec![token(); count],
                vec![pack(list, 11); count],
            );
        }
    };
    // `d` says how many rows there are.
    wide(&[2, 1999, 3]);
    let summary = place.import(Format::Distillkit, "kit").unwrap();
    assert_eq!((summary.rows, summary.padded), (5, 5));
    let rows = place.rows();
    assert_eq!(rows[1].5.iter().map(|e| e.0).collect::<Vec<_>>(), [2, 3]);
    assert!(near(rows[1].4, 0.125 + 0.25));
    wide(&[2, 2000, 3]);
    let error = place.import(Format::Distillkit, "kit");
    let error = error.unwrap_err().to_string();
    assert!(error.contains("id 2000 is beyond the 2000 rows"), "{error}");
    wide(&[2, 3, 2]);
    let error = place.import(Format::Distillkit, "kit");
    let error = error.unwrap_err().to_string();
    assert!(error.contains("id 2 is listed twice"), "{error}");
}
