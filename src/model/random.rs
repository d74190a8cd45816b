//! Random numbers by integer arithmetic alone: the same on every machine.

/// Standard normal numbers of `stream`: sums of twelve uniform 16-bit integers, which need no
/// transcendental functions and are therefore the same everywhere. |z| is below 6.
pub(super) fn normal(seed: u64, stream: u64) -> impl Iterator<Item = f32> {
    let key = mix(mix(seed) ^ mix(stream.wrapping_add(0x9e37_79b9_7f4a_7c15)));
    (0u64..).map(move |counter| {
        let mut sum = 0u64;
        for part in 0..3 {
            let bits = mix(key.wrapping_add(counter.wrapping_mul(3).wrapping_add(part)));
            sum += (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
        }
        // Mean 12 * 65535 / 2; variance 12 * (65536^2 - 1) / 12.
        (sum as f32 - 393_210.0) / 65_536.0
    })
}

/// The finaliser of SplitMix64, after an odd multiplication that spreads counters.
pub(super) fn mix(x: u64) -> u64 {
    let x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
