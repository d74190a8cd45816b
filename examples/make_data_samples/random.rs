//! The generator's own random numbers: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), so that
//! the samples never change with a dependency.

/// A stream of random numbers, fixed by its seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream called `name`; streams of different names are independent of each other, so
    /// that a change to one subject leaves the others as they are.
    pub fn named(name: &str) -> Self {
        // FNV-1a, 64 bits.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(hash)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..n`; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        // The high half of a 128-bit product: its bias is under n / 2^64.
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// A number in `low..=high`.
    pub fn range(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `items`, which must not be empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Puts `items` in a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// `n` different ones of `items`, in random order; all of them when there are fewer.
    pub fn several<'a, T>(&mut self, items: &'a [T], n: usize) -> Vec<&'a T> {
        let mut all: Vec<&T> = items.iter().collect();
        self.shuffle(&mut all);
        all.truncate(n);
        all
    }
}

/// A weighted choice: what a specialist can learn of the world and a label alone does not show.
#[derive(Clone, Debug)]
pub struct Mix<T> {
    items: Vec<(T, usize)>,
}

impl<T: Clone> Mix<T> {
    /// `n` different ones of `pool`, the first four times as likely as the third, and so on.
    pub fn of(rng: &mut Rng, pool: &[T], n: usize) -> Self {
        let chosen = rng.several(pool, n);
        let items = chosen
            .into_iter()
            .enumerate()
            .map(|(rank, item)| (item.clone(), (16 >> rank).max(1)))
            .collect();
        Self { items }
    }

    /// One of the items, by weight.
    pub fn draw(&self, rng: &mut Rng) -> &T {
        let total: usize = self.items.iter().map(|(_, weight)| weight).sum();
        let mut left = rng.below(total);
        for (item, weight) in &self.items {
            if left < *weight {
                return item;
            }
            left -= weight;
        }
        &self.items[0].0
    }

    /// `n` different items, each drawn by weight from those that are left.
    pub fn draw_distinct(&self, rng: &mut Rng, n: usize) -> Vec<&T> {
        let mut left: Vec<&(T, usize)> = self.items.iter().collect();
        let mut out = Vec::new();
        while out.len() < n && !left.is_empty() {
            let total: usize = left.iter().map(|(_, weight)| weight).sum();
            let mut point = rng.below(total);
            let mut index = 0;
            while point >= left[index].1 {
                point -= left[index].1;
                index += 1;
            }
            out.push(&left.remove(index).0);
        }
        out
    }
}
