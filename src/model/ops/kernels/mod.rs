//! Row kernels in f32 for the CPU, forward and backward.
//!
//! Plain loops over slices, written so that the compiler vectorises them, for the widest registers
//! that the machine has (`wide!`); rows are spread over the thread pool in chunks of fixed size.
//! Results depend neither on the number of threads nor on the machine: no operation is fused or
//! reordered.

/// Compiles a function for AVX2 and AVX-512 too, and calls the best that the machine has.
macro_rules! wide {
    ($(#[$meta:meta])* pub fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$meta])*
        pub fn $name($($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            fn plain($($arg: $type),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) $(-> $out)? {
                    plain($($arg),*)
                }
                #[target_feature(enable = "avx512f")]
                fn avx512($($arg: $type),*) $(-> $out)? {
                    plain($($arg),*)
                }
                if is_x86_feature_detected!("avx512f") {
                    // SAFETY: the machine has the instructions.
                    return unsafe { avx512($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the machine has the instructions.
                    return unsafe { avx2($($arg),*) };
                }
            }
            plain($($arg),*)
        }
    };
}

mod activation;
mod norm;
mod rows;
mod scalar;
mod softmax;
mod tasks;

pub(crate) use activation::{
    rotate_row, softcap_derivative_row, softcap_row, swiglu, swiglu_backward,
};
pub(crate) use norm::{rms_norm_backward, rms_norm_row};
pub(crate) use rows::{affine_row, all_finite, exp_row, max, sum_exp};
pub(crate) use scalar::exp;
pub(crate) use softmax::{add_distance_row, softmax_row, softmax_row_backward, visible};
pub(crate) use tasks::{add, add_to_rows, for_rows, for_rows2, sum_of_rows};
