//! Loops over slices, compiled for several instruction sets and chosen when the program runs.
//!
//! The default build is for any x86-64, which has 128-bit vectors. What is declared with
//! [`vectorised!`] is compiled for AVX2 and AVX-512 too. All versions do the same operations in
//! the same order (multiplications and additions are never contracted), so results do not depend
//! on the machine.

/// Vector instructions beyond the ones that every machine has.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Plain,
    Avx2,
    Avx512,
}

#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn level() -> Level {
    use std::sync::atomic::{AtomicU8, Ordering};
    static FOUND: AtomicU8 = AtomicU8::new(0);
    match FOUND.load(Ordering::Relaxed) {
        1 => Level::Plain,
        2 => Level::Avx2,
        3 => Level::Avx512,
        _ => {
            let wide = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            let (level, number) = if wide {
                (Level::Avx512, 3)
            } else if is_x86_feature_detected!("avx2") {
                (Level::Avx2, 2)
            } else {
                (Level::Plain, 1)
            };
            FOUND.store(number, Ordering::Relaxed);
            level
        }
    }
}

/// Declares functions whose bodies are compiled once for each [`Level`].
macro_rules! vectorised {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block
    )*) => {$(
        $(#[$meta])*
        $vis fn $name($($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            fn body($($arg: $type),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($arg: $type),*) $(-> $out)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) $(-> $out)? {
                    body($($arg),*)
                }
                match $crate::tensors::simd::level() {
                    // SAFETY: the machine has these instructions.
                    $crate::tensors::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::tensors::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::tensors::simd::Level::Plain => {}
                }
            }
            body($($arg),*)
        }
    )*};
}
pub(crate) use vectorised;
