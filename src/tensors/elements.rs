//! Numbers that are read as `f32`, wherever they are.

use std::ops::Range;

use super::dtype::Dtype;

/// A range of numbers that can be read as `f32`, from any thread.
pub trait Elements: Sync {
    /// How many elements there are.
    fn len(&self) -> usize;

    /// Reads the elements `start .. start + out.len()`, which must exist.
    fn read(&self, start: usize, out: &mut [f32]);

    /// [`Elements::read`] with all digits of numbers that are stored as `f64`.
    fn read_f64(&self, start: usize, out: &mut [f64]) {
        let mut single = vec![0.0; out.len()];
        self.read(start, &mut single);
        widen(&single, out);
    }

    /// Reads a few elements that lie apart from those that are read next.
    fn peek(&self, start: usize, out: &mut [f32]) {
        self.read(start, out);
    }

    /// Says that a range is not needed again for a while. Has no effect on results.
    fn done(&self, _range: Range<usize>) {}

    /// Whether there is no element.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The same numbers as `f64`.
pub fn widen(single: &[f32], out: &mut [f64]) {
    for (out, value) in out.iter_mut().zip(single) {
        *out = f64::from(*value);
    }
}

/// Numbers in memory.
impl Elements for Vec<f32> {
    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn read(&self, start: usize, out: &mut [f32]) {
        out.copy_from_slice(&self[start..start + out.len()]);
    }
}

/// A tensor of an open checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Its element type.
    pub dtype: Dtype,
    /// Its dimensions; empty for a scalar.
    pub shape: &'a [usize],
    /// Its elements, little-endian, row-major, with no particular alignment.
    pub bytes: &'a [u8],
}

impl View<'_> {
    /// All elements as `f32`. Memory: 4 bytes per element.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        self.dtype.decode(self.bytes, &mut out);
        out
    }
}

impl Elements for View<'_> {
    fn len(&self) -> usize {
        self.shape.iter().product()
    }

    fn read(&self, start: usize, out: &mut [f32]) {
        let size = self.dtype.size();
        let bytes = &self.bytes[start * size..(start + out.len()) * size];
        self.dtype.decode(bytes, out);
    }

    fn read_f64(&self, start: usize, out: &mut [f64]) {
        if self.dtype != Dtype::F64 {
            let mut single = vec![0.0; out.len()];
            self.read(start, &mut single);
            return widen(&single, out);
        }
        let raw = self.bytes[start * 8..].as_chunks::<8>().0;
        for (out, raw) in out.iter_mut().zip(raw) {
            *out = f64::from_le_bytes(*raw);
        }
    }
}
