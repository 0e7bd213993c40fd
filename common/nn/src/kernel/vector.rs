//! Sixteen values at a time, whatever the instruction set: what the bodies in [`super`] are written in.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::LANES;

/// Sixteen values in registers.
///
/// # Safety
/// The methods read and write through pointers and need the instructions of the implementor.
pub(super) trait Vector: Copy {
    /// Most vectors that a tile of a product is wide.
    const WIDE: usize;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// The first `n` values, 1 to 16, the others zero.
    unsafe fn load_part(from: *const f32, n: usize) -> Self;
    unsafe fn store_part(self, to: *mut f32, n: usize);
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    /// a b + self.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// Row i of 16 becomes column i; none where there are too few registers for it.
    #[inline(always)]
    unsafe fn transpose(_rows: [Self; LANES]) -> Option<[Self; LANES]> {
        None
    }
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

#[cfg(target_arch = "x86_64")]
impl Vector for Avx512 {
    const WIDE: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Self(_mm512_set1_ps(x)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(_mm512_loadu_ps(from)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, n: usize) -> Self {
        unsafe { Self(_mm512_maskz_loadu_ps(((1_u32 << n) - 1) as __mmask16, from)) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, n: usize) {
        unsafe { _mm512_mask_storeu_ps(to, ((1_u32 << n) - 1) as __mmask16, self.0) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Self(_mm512_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        unsafe { Self(_mm512_fmadd_ps(a.0, b.0, self.0)) }
    }

    #[inline(always)]
    unsafe fn transpose(rows: [Self; LANES]) -> Option<[Self; LANES]> {
        unsafe {
            // Pairs, then fours of rows within each quarter of a register, then the quarters among registers.
            let mut fours = rows;
            for g in (0..LANES).step_by(4) {
                let [a, b, c, d] = [rows[g].0, rows[g + 1].0, rows[g + 2].0, rows[g + 3].0];
                let low = [_mm512_castps_pd(_mm512_unpacklo_ps(a, b)), _mm512_castps_pd(_mm512_unpacklo_ps(c, d))];
                let high = [_mm512_castps_pd(_mm512_unpackhi_ps(a, b)), _mm512_castps_pd(_mm512_unpackhi_ps(c, d))];
                fours[g] = Self(_mm512_castpd_ps(_mm512_unpacklo_pd(low[0], low[1])));
                fours[g + 1] = Self(_mm512_castpd_ps(_mm512_unpackhi_pd(low[0], low[1])));
                fours[g + 2] = Self(_mm512_castpd_ps(_mm512_unpacklo_pd(high[0], high[1])));
                fours[g + 3] = Self(_mm512_castpd_ps(_mm512_unpackhi_pd(high[0], high[1])));
            }
            let mut columns = fours;
            for j in 0..4 {
                let [a, b, c, d] = [fours[j].0, fours[4 + j].0, fours[8 + j].0, fours[12 + j].0];
                let even = [_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d)];
                let odd = [_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d)];
                columns[j] = Self(_mm512_shuffle_f32x4::<0x88>(even[0], even[1]));
                columns[4 + j] = Self(_mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]));
                columns[8 + j] = Self(_mm512_shuffle_f32x4::<0xdd>(even[0], even[1]));
                columns[12 + j] = Self(_mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]));
            }
            Some(columns)
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx2([__m256; 2]);

#[cfg(target_arch = "x86_64")]
impl Vector for Avx2 {
    const WIDE: usize = 1;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Self([_mm256_set1_ps(x); 2]) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self([_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))]) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, self.0[0]);
            _mm256_storeu_ps(to.add(8), self.0[1]);
        }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, n: usize) -> Self {
        unsafe {
            let [low, high] = part_masks(n);
            // A lane that is masked out is not touched, wherever it points.
            let second = from.wrapping_add(8);
            Self([_mm256_maskload_ps(from, low), _mm256_maskload_ps(second, high)])
        }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, n: usize) {
        unsafe {
            let [low, high] = part_masks(n);
            _mm256_maskstore_ps(to, low, self.0[0]);
            _mm256_maskstore_ps(to.wrapping_add(8), high, self.0[1]);
        }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Self([_mm256_mul_ps(self.0[0], other.0[0]), _mm256_mul_ps(self.0[1], other.0[1])]) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Self([_mm256_add_ps(self.0[0], other.0[0]), _mm256_add_ps(self.0[1], other.0[1])]) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        unsafe { Self([_mm256_fmadd_ps(a.0[0], b.0[0], self.0[0]), _mm256_fmadd_ps(a.0[1], b.0[1], self.0[1])]) }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn part_masks(n: usize) -> [__m256i; 2] {
    unsafe {
        let n = _mm256_set1_epi32(n as i32);
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let more = _mm256_add_epi32(lanes, _mm256_set1_epi32(8));
        [_mm256_cmpgt_epi32(n, lanes), _mm256_cmpgt_epi32(n, more)]
    }
}

#[derive(Clone, Copy)]
pub(super) struct Portable([f32; LANES]);

impl Vector for Portable {
    const WIDE: usize = 1;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; LANES])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(from.cast::<[f32; LANES]>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, n: usize) -> Self {
        let mut values = [0.0; LANES];
        unsafe { values.as_mut_ptr().copy_from_nonoverlapping(from, n) };
        Self(values)
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, n: usize) {
        unsafe { to.copy_from_nonoverlapping(self.0.as_ptr(), n) };
    }

    #[inline(always)]
    unsafe fn mul(mut self, other: Self) -> Self {
        for (x, y) in self.0.iter_mut().zip(other.0) {
            *x *= y;
        }
        self
    }

    #[inline(always)]
    unsafe fn add(mut self, other: Self) -> Self {
        for (x, y) in self.0.iter_mut().zip(other.0) {
            *x += y;
        }
        self
    }

    #[inline(always)]
    unsafe fn add_product(mut self, a: Self, b: Self) -> Self {
        for (x, (a, b)) in self.0.iter_mut().zip(a.0.into_iter().zip(b.0)) {
            *x = a.mul_add(b, *x);
        }
        self
    }
}
