//! Numbers that are read as `f32`, wherever they are.

use std::ops::Range;

use super::dtype::Dtype;

/// A range of numbers that can be read as `f32`, from any thread.
pub trait Elements: Sync {
    /// How many elements there are.
    fn len(&self) -> usize;

    /// Reads the elements `start .. start + out.len()`, which must exist.
    fn read(&self, start: usize, out: &mut [f32]);

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

/// Numbers in memory, for tests.
#[cfg(test)]
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
}
