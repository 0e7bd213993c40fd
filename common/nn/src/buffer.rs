//! Memory for hot loops: `f32` values that begin at a cache line.

use std::ops::{Deref, DerefMut};

/// A fixed number of `f32`, zero at first, beginning at a multiple of 64 bytes, so that no vector of sixteen lies across
/// two cache lines.
#[derive(Debug)]
pub struct Buffer {
    memory: Vec<f32>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let memory = vec![0.0_f32; len + LINE];
        // The vector is never grown or moved out of, so its address stays what it is here.
        let start = memory.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Self { memory, start, len }
    }
}

impl From<&[f32]> for Buffer {
    fn from(values: &[f32]) -> Self {
        let mut buffer = Self::zeroed(values.len());
        buffer.copy_from_slice(values);
        buffer
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        Self::from(&**self)
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// Values in a cache line.
const LINE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_and_their_clones_begin_at_a_cache_line() {
        for len in [0, 1, 15, 16, 17, 4099] {
            let mut buffer = Buffer::zeroed(len);
            buffer.fill(2.5);
            let clone = buffer.clone();
            assert_eq!((&*clone, clone.len()), (&*buffer, len));
            assert_eq!(buffer.as_ptr() as usize % 64, 0);
            assert_eq!(clone.as_ptr() as usize % 64, 0);
        }
    }
}
