use std::path::Path;

use super::header::MAX_HEADER_BYTES;
use super::*;

fn spec(name: &str, dtype: Dtype, shape: &[usize]) -> TensorSpec {
    TensorSpec {
        name: name.into(),
        dtype,
        shape: shape.to_vec(),
    }
}

/// A file with the given header text and `data` bytes of zeros.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn refused(bytes: &[u8], expected: &str) {
    let error = Header::parse(Path::new("x.safetensors"), bytes).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains(expected),
        "expected `{expected}` in `{error}`"
    );
    assert!(error.contains("x.safetensors"));
}

#[test]
fn hostile_headers_are_refused_with_a_reason() {
    refused(b"", "found 0 bytes");
    refused(&[1, 2, 3], "found 3 bytes");
    refused(&[0xff; 16], "the limit is");
    refused(&file("{}", 0)[..9], "the header claims 2 bytes");
    refused(&file("not json", 0), "not what it should be");
    refused(&file("{}", 3), "3 bytes after the last tensor");
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    refused(&file(&one("F32", "[2]", "[0,4]"), 4), "takes 8 bytes");
    refused(&file(&one("F32", "[2]", "[8,0]"), 8), "takes 8 bytes");
    refused(
        &file(&one("F32", "[2]", "[0,8]"), 4),
        "the file holds 4 bytes",
    );
    refused(&file(&one("F32", "[1]", "[4,8]"), 8), "leave a gap");
    refused(
        &file(&one("Q4", "[1]", "[0,4]"), 4),
        "`Q4` is not supported",
    );
    refused(
        &file(&one("F32", "[-1]", "[0,4]"), 4),
        "not what it should be",
    );
    let huge = one("F32", "[4294967296,4294967296,4294967296]", "[0,0]");
    refused(&file(&huge, 0), "overflows");
    refused(
        &file(
            &one("F32", "[1]", "[18446744073709551612,18446744073709551615]"),
            4,
        ),
        "takes 4 bytes",
    );
    let t = r#"{"dtype":"U8","shape":[4],"data_offsets":"#;
    refused(
        &file(&format!(r#"{{"a":{t}[0,4]}},"b":{t}[2,6]}}}}"#), 6),
        "overlap",
    );
    refused(
        &file(&format!(r#"{{"a":{t}[0,4]}},"a":{t}[4,8]}}}}"#), 8),
        "occurs twice",
    );
}

#[test]
fn hostile_lengths_are_refused_with_a_reason() {
    let mut bytes = file("{}", 0);
    for (claimed, expected) in [
        (u64::MAX, "the limit is 100000000"),
        (MAX_HEADER_BYTES + 1, "the limit is 100000000"),
        (MAX_HEADER_BYTES, "the file has 2"),
        (3, "the file has 2"),
        (1, "not what it should be"),
        (0, "not what it should be"),
    ] {
        bytes[..8].copy_from_slice(&claimed.to_le_bytes());
        refused(&bytes, expected);
    }
}

#[test]
fn hostile_names_and_shapes_are_refused_in_short_messages() {
    let one = |name: &str, dtype: &str, shape: &str| {
        let text =
            format!(r#"{{"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,4]}}}}"#);
        let bytes = file(&text, 4);
        let error = Header::parse(Path::new("x"), &bytes).unwrap_err();
        let error = error.to_string();
        assert!(error.len() < 400, "{error}");
        assert!(!error.contains('\u{1b}'), "{error}");
        error
    };
    assert!(one(&"n".repeat(5000), "F32", "[1]").contains("no name of a tensor"));
    assert!(one(r"\u001b[2J", "F32", "[1]").contains(r"`\u{1b}[2J`"));
    assert!(one("a", &"D".repeat(5000), "[1]").contains("is not supported"));
    let many = format!("[{}1]", "1,".repeat(40));
    assert!(one("a", "F32", &many).contains("41 dimensions are too many"));
    for shape in ["[1.5]", "[1e0]", "\"1\"", "{}", "null", "[[1]]"] {
        assert!(one("a", "F32", shape).contains("not what it should be"));
    }
    for metadata in [r#""x""#, r#"{"a":1}"#, r#"{"a":"1","a":"2"}"#] {
        refused(
            &file(&format!(r#"{{"__metadata__":{metadata}}}"#), 0),
            "not what it",
        );
    }
    let twice = r#"{"__metadata__":{},"__metadata__":{}}"#;
    refused(&file(twice, 0), "occurs twice");
}

#[test]
fn entries_may_be_in_any_order_and_tensors_may_be_empty() {
    let t = r#"{"dtype":"U8","shape":"#;
    let text = format!(
        r#"{{"b":{t}[2],"data_offsets":[4,6]}},"e":{t}[0,9],"data_offsets":[4,4]}},"a":{t}[4],"data_offsets":[0,4]}}}}"#
    );
    let header = Header::parse(Path::new("x"), &file(&text, 6)).unwrap();
    let names: Vec<_> = header.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a", "e", "b"]);
}

/// Fails unless `flipped` is refused or means the same as `good`: names and metadata are any
/// strings, so that a changed letter in them cannot be seen here.
fn same_or_refused(good: &Header, flipped: &[u8]) {
    let Ok(header) = Header::parse(Path::new("x"), flipped) else {
        return;
    };
    let form = |header: &Header| -> Vec<_> {
        let tensors = header.tensors.iter();
        tensors
            .map(|t| (t.dtype, t.shape.clone(), t.begin, t.end))
            .collect()
    };
    assert_eq!(form(&header), form(good));
    let names = header.tensors.iter().zip(&good.tensors);
    let renamed = names.filter(|(a, b)| a.name != b.name).count();
    let other = usize::from(header.metadata != good.metadata);
    assert!(renamed + other <= 1);
}

#[test]
fn every_truncation_and_bit_flip_is_refused_or_harmless() {
    let encode = |specs: &[TensorSpec]| {
        let (mut bytes, data) = Header::encode(&[("format", "pt")], specs);
        bytes.resize(bytes.len() + data as usize, 0);
        bytes
    };
    let mut bytes = encode(&[
        spec("a", Dtype::BF16, &[2, 3]),
        spec("b", Dtype::F32, &[5]),
        spec("c", Dtype::F16, &[]),
    ]);
    for length in 0..bytes.len() {
        assert!(Header::parse(Path::new("x"), &bytes[..length]).is_err());
    }
    let good = Header::parse(Path::new("x"), &bytes).unwrap();
    for bit in 0..8 * (bytes.len() - 34) {
        bytes[bit / 8] ^= 1 << (bit % 8);
        same_or_refused(&good, &bytes);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }

    let many = (0..2000).map(|at| spec(&format!("model.layers.{at}.w"), Dtype::F16, &[3]));
    let mut bytes = encode(&many.collect::<Vec<_>>());
    let good = Header::parse(Path::new("x"), &bytes).unwrap();
    let bits = 8 * (bytes.len() - 2000 * 6);
    for bit in (0..bits).step_by((bits / 300) | 1) {
        bytes[bit / 8] ^= 1 << (bit % 8);
        same_or_refused(&good, &bytes);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

/// Random numbers from a seed.
pub(crate) struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % limit.max(1)
    }

    /// Flips a bit, removes or repeats a piece, or puts one of `words` somewhere; a few times.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>, words: &[&str]) {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(12)).min(bytes.len());
            match self.below(4) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
                _ => {
                    let word = words[self.below(words.len())];
                    bytes.splice(at..at, word.bytes());
                }
            }
        }
    }
}

/// What fuzz/fuzz_targets/header.rs does, from a fixed seed.
#[test]
fn mutations_of_headers_are_refused_or_cover_the_file() {
    let good = concat!(
        r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,3],"#,
        r#""data_offsets":[0,12]},"b":{"dtype":"F8_E4M3","shape":[],"data_offsets":[12,13]}}"#
    );
    let words = [
        "0",
        "1",
        "-1",
        "18446744073709551615",
        "4294967296",
        "1e9",
        "0.5",
        "null",
        "true",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "\"",
        "\\u0000",
        "\"__metadata__\"",
        "\"a\"",
        "F32",
        "I64",
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut accepted = 0;
    for _ in 0..30_000 {
        let mut text = good.as_bytes().to_vec();
        random.mutate(&mut text, &words);
        let length = text.len();
        let mut bytes = (length as u64).to_le_bytes().to_vec();
        bytes.append(&mut text);
        bytes.resize(bytes.len() + 13, 0);
        match Header::parse(Path::new("x"), &bytes) {
            Err(error) => assert!(error.to_string().starts_with("x: ")),
            Ok(header) => {
                let mut covered = 8 + length;
                for tensor in &header.tensors {
                    assert_eq!(tensor.begin, covered);
                    covered = tensor.end;
                }
                assert_eq!(covered, bytes.len());
                accepted += 1;
            }
        }
    }
    assert!((100..20_000).contains(&accepted), "{accepted}");
}
