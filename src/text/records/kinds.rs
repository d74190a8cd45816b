//! The kind of a file, by its first bytes; its name says nothing.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use crate::error::{Error, Result};

/// The kinds that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// JSON lines, or a JSON array.
    Text,
    Gzip,
    Zstd,
    Parquet,
}

/// First bytes of the kinds that are read.
const READ: [(&[u8], Kind); 3] = [
    (&[0x1F, 0x8B], Kind::Gzip),
    (&[0x28, 0xB5, 0x2F, 0xFD], Kind::Zstd),
    (b"PAR1", Kind::Parquet),
];

const TO_LINES: &str = "convert it to JSON lines or Parquet";
const UNPACK: &str = "unpack it, or pack it again with gzip or zstd";

/// First bytes of known kinds that are not read: what they are, and the remedy.
const FOREIGN: [(&[u8], &str, &str); 25] = [
    (
        b"ARROW1",
        "an Arrow IPC file (Feather)",
        "write it as Parquet",
    ),
    (b"FEA1", "a Feather file", "write it as Parquet"),
    (
        &[0xFF, 0xFF, 0xFF, 0xFF],
        "an Arrow IPC stream",
        "write it as Parquet",
    ),
    (
        b"PARE",
        "an encrypted Parquet file",
        "write it without encryption",
    ),
    (b"BZh", "compressed with bzip2", UNPACK),
    (
        &[0xFD, b'7', b'z', b'X', b'Z', 0],
        "compressed with xz",
        UNPACK,
    ),
    (&[0x5D, 0, 0], "compressed with LZMA", UNPACK),
    (&[0x04, 0x22, 0x4D, 0x18], "compressed with LZ4", UNPACK),
    (&[0x02, 0x21, 0x4C, 0x18], "compressed with LZ4", UNPACK),
    (
        &[0xFF, 0x06, 0, 0, b's', b'N', b'a', b'P'],
        "compressed with Snappy",
        UNPACK,
    ),
    (
        b"PK\x03\x04",
        "a zip archive",
        "unpack it and name the files in it",
    ),
    (
        b"PK\x05\x06",
        "an empty zip archive",
        "name a file with records",
    ),
    (
        &[b'7', b'z', 0xBC, 0xAF],
        "a 7z archive",
        "unpack it and name the files in it",
    ),
    (
        b"Rar!",
        "a RAR archive",
        "unpack it and name the files in it",
    ),
    (b"SQLite format 3\0", "an SQLite database", TO_LINES),
    (b"\x89HDF\r\n\x1A\n", "an HDF5 file", TO_LINES),
    (b"Obj\x01", "an Avro file", TO_LINES),
    (b"ORC", "an ORC file", TO_LINES),
    (b"\x93NUMPY", "a NumPy array", TO_LINES),
    (b"%PDF-", "a PDF document", TO_LINES),
    (&[0xFF, 0xFE, 0, 0], "text in UTF-32", "convert it to UTF-8"),
    (&[0xFF, 0xFE], "text in UTF-16", "convert it to UTF-8"),
    (&[0xFE, 0xFF], "text in UTF-16", "convert it to UTF-8"),
    (
        b"version https://git-lfs",
        "a pointer of Git LFS, not the file itself",
        "fetch the file with `git lfs pull`",
    ),
    (
        b"<!DOCTYPE",
        "a web page",
        "download the file itself, not the page about it",
    ),
];

/// The kind of a file that begins with these bytes.
pub(super) fn kind(path: &Path, first: &[u8]) -> Result<Kind> {
    if let Some((_, kind)) = READ.iter().find(|(bytes, _)| first.starts_with(bytes)) {
        return Ok(*kind);
    }
    // Frames that readers skip, as parallel compressors write them.
    if matches!(first, [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..]) {
        return Ok(Kind::Zstd);
    }
    match foreign(first) {
        Some((what, remedy)) => Err(Error::file(
            path,
            format!("is {what}; JSON lines, JSON and Parquet are read, plain or compressed with gzip or zstd"),
        )
        .remedy(remedy)),
        None => Ok(Kind::Text),
    }
}

fn foreign(first: &[u8]) -> Option<(&'static str, &'static str)> {
    let known = FOREIGN.iter().find(|(bytes, ..)| first.starts_with(bytes));
    if let Some((_, what, remedy)) = known {
        return Some((what, remedy));
    }
    // A name and its length in octal, with the mark at a fixed place.
    if first.get(257..262) == Some(b"ustar") {
        return Some(("a tar archive", "unpack it and name the files in it"));
    }
    match first {
        [0x80, 2..=5, ..] => Some(("a Python pickle", TO_LINES)),
        // ASCII in 16 bits, without a mark.
        [0, b'{' | b'[', ..] | [b'{' | b'[', 0, ..] => {
            Some(("text in UTF-16", "convert it to UTF-8"))
        }
        _ => None,
    }
}

/// Longest line of a file, in bytes; a packed file of a few can unpack to more than there is memory.
const LONGEST_LINE: u64 = 256 << 20;

/// Longest list (`.json`), in bytes.
const LONGEST_LIST: u64 = 2 << 30;

/// The text of a file, unpacked.
pub(super) struct Unpacked {
    reader: Box<dyn BufRead + Send>,
    /// What it was packed with.
    packed: Option<&'static str>,
}

/// A file that is opened, by its kind.
pub(super) enum Opened {
    Text(Unpacked),
    Parquet(File),
}

/// Opens a file of any kind that is read.
pub(super) fn open(path: &Path) -> Result<Opened> {
    let io = |error| Error::io(path, error);
    let file = File::open(path).map_err(io)?;
    if file.metadata().is_ok_and(|meta| meta.is_dir()) {
        return Err(Error::file(path, "a folder, expected a file").remedy("name the files in it"));
    }
    let mut file = BufReader::with_capacity(1 << 16, file);
    let found = kind(path, file.fill_buf().map_err(io)?)?;
    let (reader, packed): (Box<dyn BufRead + Send>, _) = match found {
        Kind::Parquet => return File::open(path).map(Opened::Parquet).map_err(io),
        Kind::Text => (Box::new(file), None),
        Kind::Gzip => {
            let reader = flate2::bufread::MultiGzDecoder::new(file);
            (
                Box::new(BufReader::with_capacity(1 << 16, reader)),
                Some("gzip"),
            )
        }
        Kind::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(file).map_err(io)?;
            // The most that the format has; memory is taken as a frame asks for it.
            decoder.window_log_max(31).map_err(io)?;
            (
                Box::new(BufReader::with_capacity(1 << 16, decoder)),
                Some("zstd"),
            )
        }
    };
    let mut text = Unpacked { reader, packed };
    if let Some(packed) = packed {
        let inner = kind(path, text.fill(path)?)?;
        if inner != Kind::Text {
            let problem = format!("holds another packed or Parquet file inside {packed}");
            return Err(Error::file(path, problem).remedy("unpack it once"));
        }
    }
    if text.fill(path)?.starts_with(&[0xEF, 0xBB, 0xBF]) {
        text.reader.consume(3);
    }
    Ok(Opened::Text(text))
}

impl Unpacked {
    /// The bytes that come next; none at the end.
    pub(super) fn fill(&mut self, path: &Path) -> Result<&[u8]> {
        let packed = self.packed;
        self.reader
            .fill_buf()
            .map_err(|error| unreadable(path, packed, error))
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        self.reader.consume(bytes);
    }

    /// Appends the next line, with its end; whether there was one.
    pub(super) fn line(&mut self, path: &Path, text: &mut Vec<u8>) -> Result<bool> {
        let before = text.len();
        let mut line = (&mut self.reader).take(LONGEST_LINE + 1);
        line.read_until(b'\n', text)
            .map_err(|error| unreadable(path, self.packed, error))?;
        let read = (text.len() - before) as u64;
        match read > LONGEST_LINE {
            true => Err(too_long(path, "a line", LONGEST_LINE)),
            false => Ok(read > 0),
        }
    }

    /// All that is left.
    pub(super) fn rest(&mut self, path: &Path) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut rest = (&mut self.reader).take(LONGEST_LIST + 1);
        rest.read_to_end(&mut text)
            .map_err(|error| unreadable(path, self.packed, error))?;
        match text.len() as u64 > LONGEST_LIST {
            true => Err(too_long(path, "a list", LONGEST_LIST)),
            false => Ok(text),
        }
    }
}

/// The error of something that would have to be in memory as a whole.
fn too_long(path: &Path, what: &str, most: u64) -> Error {
    Error::file(path, format!("{what} of more than {} MiB", most >> 20))
        .remedy("write JSON lines, one record on each")
}

/// Why a file could not be read on: packed ones can be cut short or damaged.
fn unreadable(path: &Path, packed: Option<&str>, error: std::io::Error) -> Error {
    use std::io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    match (packed, error.kind()) {
        (Some(packed), UnexpectedEof) => {
            Error::file(path, format!("is cut short: its {packed} data have no end"))
                .remedy("download or copy it again")
        }
        (Some(packed), InvalidData | InvalidInput | Other) => {
            Error::file(path, format!("its {packed} data are damaged: {error}"))
                .remedy("download or copy it again")
        }
        _ => Error::io(path, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_first_bytes() {
        let path = Path::new("x.jsonl");
        for (first, expected) in [
            (&b"{\"text\": 1}"[..], Kind::Text),
            (b"", Kind::Text),
            (b"P", Kind::Text),
            (&[0x1F, 0x8B, 8], Kind::Gzip),
            (&[0x28, 0xB5, 0x2F, 0xFD, 0], Kind::Zstd),
            (&[0x5A, 0x2A, 0x4D, 0x18], Kind::Zstd),
            (b"PAR1\x15", Kind::Parquet),
        ] {
            assert_eq!(kind(path, first).unwrap(), expected, "{first:?}");
        }
        let mut tar = vec![b'x'; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for (first, expected) in [
            (&b"ARROW1\0\0"[..], "Arrow IPC file"),
            (&[0xFF, 0xFF, 0xFF, 0xFF, 0x70], "Arrow IPC stream"),
            (b"BZh91AY", "bzip2"),
            (&[0xFD, b'7', b'z', b'X', b'Z', 0, 0], "xz"),
            (&[0x04, 0x22, 0x4D, 0x18, 0x64], "LZ4"),
            (b"PK\x03\x04\x14", "zip archive"),
            (b"SQLite format 3\0", "SQLite"),
            (b"\x89HDF\r\n\x1A\n", "HDF5"),
            (&[0x80, 4, 0x95], "pickle"),
            (&[0xFF, 0xFE, b'{', 0], "UTF-16"),
            (&[b'{', 0, b'"', 0], "UTF-16"),
            (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
            (&tar, "tar archive"),
        ] {
            let error = kind(path, first).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(error.starts_with("x.jsonl: is ") && error.matches("; ").count() == 2);
        }
    }

    /// 25 kB that unpack to one line of more than a quarter of a gibibyte.
    #[test]
    fn a_line_without_an_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long.jsonl.zst");
        let mut file = zstd::Encoder::new(File::create(&path).unwrap(), 1).unwrap();
        std::io::copy(&mut std::io::repeat(b'a').take(LONGEST_LINE + 1), &mut file).unwrap();
        file.finish().unwrap();
        let Opened::Text(mut text) = open(&path).unwrap() else {
            panic!("no text");
        };
        let error = text.line(&path, &mut Vec::new()).unwrap_err().to_string();
        assert!(
            error.contains("long.jsonl.zst: a line of more than 256 MiB"),
            "{error}"
        );
    }
}
