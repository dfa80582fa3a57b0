//! Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy
//! as 1, 2, 3", SC 2011).
//!
//! A stream is named by what it is *for* — (seed, purpose, epoch, sample index) — never by the
//! thread or worker that draws from it, so every draw is the same whatever the number of threads,
//! through recomputation and after a resume.

/// What a random stream is used for; two purposes never share a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Parameter initialisation; the index is a hash of the parameter's name.
    Init = 1,
    /// Order of the shards in an epoch.
    ShardOrder = 2,
    /// Draws of the shuffle buffer.
    Shuffle = 3,
    /// Image augmentation of one sample.
    Augment = 4,
    /// Choice of one caption among several.
    Caption = 5,
    /// Data made for tests and benchmarks.
    Test = 6,
    /// Patches of one image that masked feature distillation keeps.
    Mask = 7,
    /// The gates of one step of automatic weight inheritance.
    Gate = 8,
    /// Choice of the pictures in a report.
    Pictures = 9,
}

/// A Philox4x32-10 stream: 2⁶⁶ draws of 32 bits, addressed by a 64-bit key and a 128-bit counter.
#[derive(Clone, Debug)]
pub struct Philox {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

const MUL: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// The Philox4x32-10 block function.
fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = u64::from(MUL[0]) * u64::from(counter[0]);
        let p1 = u64::from(MUL[1]) * u64::from(counter[2]);
        counter = [
            (p1 >> 32) as u32 ^ counter[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ counter[3] ^ key[1],
            p0 as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

impl Philox {
    /// The stream of `(seed, purpose, epoch, index)`.
    ///
    /// The key is the seed; the counter holds the index in its upper half, and purpose and epoch
    /// fold into the key by one extra block so that streams differ in all their draws.
    pub fn new(seed: u64, purpose: Purpose, epoch: u32, index: u64) -> Self {
        let base = [seed as u32, (seed >> 32) as u32];
        let mixed = philox4x32_10([purpose as u32, epoch, 0x434C_4950, 0], base);
        Self {
            key: [mixed[0], mixed[1]],
            counter: [0, 0, index as u32, (index >> 32) as u32],
            block: [0; 4],
            used: 4,
        }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox4x32_10(self.counter, self.key);
            let low = u64::from(self.counter[0]) | u64::from(self.counter[1]) << 32;
            let low = low.wrapping_add(1);
            self.counter[0] = low as u32;
            self.counter[1] = (low >> 32) as u32;
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) | u64::from(self.next_u32()) << 32
    }

    /// Uniform in [0, 1), with 24 random bits.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in [`low`, `high`).
    pub fn uniform_in(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    /// Uniform in `0..n` without bias (Lemire's rejection). `n` must be positive.
    pub fn below(&mut self, n: u32) -> u32 {
        let threshold = n.wrapping_neg() % n;
        loop {
            let wide = u64::from(self.next_u32()) * u64::from(n);
            if wide as u32 >= threshold {
                return (wide >> 32) as u32;
            }
        }
    }

    /// Standard normal by Box and Muller, one value per two draws.
    pub fn normal(&mut self) -> f32 {
        let u = (f64::from(self.next_u32()) + 1.0) / 4_294_967_296.0;
        let v = f64::from(self.next_u32()) / 4_294_967_296.0;
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }

    /// Shuffles `items` in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u32 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (`kat_vectors`, philox4x32 10).
    #[test]
    fn known_answers() {
        assert_eq!(
            philox4x32_10([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn normal_has_unit_moments() {
        let mut rng = Philox::new(1, Purpose::Test, 0, 0);
        let draws: Vec<f64> = (0..100_000).map(|_| f64::from(rng.normal())).collect();
        let mean = draws.iter().sum::<f64>() / 1e5;
        let var = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.015, "mean {mean}");
        assert!((var - 1.0).abs() < 0.02, "variance {var}");
    }

    #[test]
    fn streams_differ_in_every_part_of_their_name() {
        let draw = |s, p, e, i| Philox::new(s, p, e, i).next_u64();
        let base = draw(1, Purpose::Init, 0, 0);
        assert_ne!(base, draw(2, Purpose::Init, 0, 0));
        assert_ne!(base, draw(1, Purpose::Shuffle, 0, 0));
        assert_ne!(base, draw(1, Purpose::Init, 1, 0));
        assert_ne!(base, draw(1, Purpose::Init, 0, 1));
    }
}
