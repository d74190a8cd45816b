//! Changes to files that their readers may not expect.

/// Numbers that are at the edge of something.
const NUMBERS: [&str; 12] = [
    "0",
    "-1",
    "1e999",
    "-1e-999",
    "4294967296",
    "18446744073709551615",
    "-9223372036854775808",
    "9007199254740993",
    "0.5",
    "NaN",
    "null",
    "1000000000000",
];

/// Pieces of the formats that are read.
const PIECES: [&str; 22] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    "\\u0000",
    "\u{fffd}",
    ",",
    ":",
    "null",
    "{%",
    "%}",
    "{{",
    "}}",
    "{% for x in x %}",
    "{% endfor %}",
    "&a [*a]",
    "<<: *a",
    "\n",
    "((a*)*)*",
    "SELECT",
];

/// Makes inputs from seeds.
pub struct Mutator {
    state: u64,
    seeds: Vec<Vec<u8>>,
}

impl Mutator {
    pub fn new(seed: u64, seeds: Vec<Vec<u8>>) -> Self {
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { state, seeds }
    }

    /// SplitMix64, below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.state;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % limit.max(1) as u64) as usize
    }

    /// A place, often near the beginning or the end, where formats have their headers.
    fn place(&mut self, length: usize) -> usize {
        match self.below(4) {
            0 => self.below(length.min(64)),
            1 => length - 1 - self.below(length.min(64)),
            _ => self.below(length),
        }
    }

    /// The next input.
    pub fn next(&mut self) -> Vec<u8> {
        let seed = self.below(self.seeds.len());
        let mut bytes = self.seeds[seed].clone();
        for _ in 0..=self.below(6) {
            if bytes.is_empty() {
                bytes.push(0);
            }
            self.change(&mut bytes);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.place(bytes.len());
        let range = at..(at + 1 + self.below(40)).min(bytes.len());
        match self.below(11) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = [0, 0xff, 0x80, 0x7f, b'"', b'{'][self.below(6)],
            2 => bytes[at] = bytes[at].wrapping_add(1),
            3 => drop(bytes.drain(range)),
            4 => {
                let copy = bytes[range].to_vec();
                let times = 1 << self.below(8);
                let copies = copy.iter().copied().cycle().take(copy.len() * times);
                drop(bytes.splice(at..at, copies));
            }
            5 => bytes.truncate(at),
            6 => {
                let piece = PIECES[self.below(PIECES.len())];
                drop(bytes.splice(at..at, piece.bytes()));
            }
            7 => {
                // Lengths and offsets are of four or eight bytes.
                let width = 4 << self.below(2);
                let value = [u64::MAX, 1 << 31, 1 << 40, 0, 1 << 62][self.below(5)];
                for (byte, new) in bytes[at..].iter_mut().zip(value.to_le_bytes()).take(width) {
                    *byte = new;
                }
            }
            8 => self.replace_number(bytes, at),
            9 => {
                let other = self.below(self.seeds.len());
                let other = self.seeds[other].clone();
                if other.is_empty() {
                    return;
                }
                let from = self.place(other.len());
                let length = 1 + self.below(200);
                let piece = other[from..].iter().take(length).copied();
                let piece: Vec<u8> = piece.collect();
                drop(bytes.splice(range, piece));
            }
            _ => {
                let to = self.place(bytes.len());
                bytes.swap(at, to);
            }
        }
    }

    /// Replaces the next number in digits by another one.
    fn replace_number(&mut self, bytes: &mut Vec<u8>, at: usize) {
        let digit = |byte: &u8| byte.is_ascii_digit();
        let Some(start) = bytes[at..].iter().position(digit) else {
            return;
        };
        let start = at + start;
        let length = bytes[start..].iter().take_while(|byte| digit(byte)).count();
        let number = NUMBERS[self.below(NUMBERS.len())];
        drop(bytes.splice(start..start + length, number.bytes()));
    }
}
