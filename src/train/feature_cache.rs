//! A frozen teacher's features of whole batches, kept for the runs that show it the same batches again.
//!
//! The rows of an ablation that share a seed read the same pairs in the same order with the same augmentation,
//! and their teacher is the larger part of a step. What it said is found again by what it was shown, so
//! rows that differ in their data as well only find nothing.

use crate::backend::{Backend, Fetch};
use crate::settings::error::{Result, failed};
use crate::tensor::Tensor;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Features held at most, in bytes of host memory; what comes later is computed as ever.
const LIMIT: usize = 1 << 30;

/// Image and text features by the hash of what they were computed from.
#[derive(Debug, Default)]
pub struct FeatureCache {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// Image features, then text features.
    features: HashMap<u64, Vec<f32>>,
    bytes: usize,
    hits: u64,
}

impl FeatureCache {
    /// How many batches it has spared teachers so far.
    pub fn hits(&self) -> u64 {
        self.lock().hits
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of a cache that is one teacher's.
#[derive(Clone, Debug)]
pub struct Share {
    cache: Arc<FeatureCache>,
    /// Hash state of the teacher and of all that its arithmetic depends on.
    teacher: DefaultHasher,
}

impl Share {
    /// The part of `cache` that belongs to the teacher of `key`, in which is everything that its arithmetic depends on.
    pub fn new(cache: Arc<FeatureCache>, key: &impl Hash) -> Self {
        let mut teacher = DefaultHasher::new();
        key.hash(&mut teacher);
        Self { cache, teacher }
    }

    /// Image and text features, `[n, width]` each, of `n` images, of which `pixels` are the host's copy, and `texts`:
    /// what is held, or what `compute` gives.
    ///
    /// # Errors
    /// If the device fails.
    pub fn features(
        &self,
        backend: &dyn Backend,
        (pixels, texts): (&[u8], &[Vec<i32>]),
        width: usize,
        compute: impl FnOnce() -> Result<[Tensor; 2]>,
    ) -> Result<[Tensor; 2]> {
        let mut hasher = self.teacher.clone();
        hasher.write(pixels);
        texts.hash(&mut hasher);
        let key = hasher.finish();
        let mut held = self.cache.lock();
        if let Some(values) = held.features.get(&key) {
            let (image, text) = values.split_at(texts.len() * width);
            let upload = |x: &[f32]| backend.upload(&[texts.len(), width], x).map_err(failed);
            let features = [upload(image)?, upload(text)?];
            held.hits += 1;
            return Ok(features);
        }
        let features = compute()?;
        let [image, text] = &features;
        let bytes = 4 * (image.len() + text.len());
        if held.bytes + bytes <= LIMIT {
            let values = backend.fetch(&[image, text]);
            let values = values.and_then(Fetch::wait).map_err(failed)?;
            held.features.insert(key, values);
            held.bytes += bytes;
        }
        Ok(features)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::tensor::Normalisation;
    use crate::tensor::rng::{Philox, Purpose};
    use crate::train::teacher::{Teacher, tests::tiny};

    #[test]
    fn a_batch_seen_again_has_the_same_bits_and_any_other_its_own() {
        let backend: Arc<dyn Backend> = Arc::new(Cpu::new());
        let clip = tiny();
        let cache = Arc::new(FeatureCache::default());
        // Two teachers that differ in their weights alone, with names that say so.
        let teachers = [1, 2].map(|seed| {
            let parameters = clip.init(backend.as_ref(), seed).unwrap();
            let teacher = Teacher::new(clip.clone(), parameters, backend.as_ref()).unwrap();
            (
                teacher,
                Share::new(cache.clone(), &format!("teacher {seed}")),
            )
        });
        let mut rng = Philox::new(0, Purpose::Test, 0, 0);
        let images = [(); 2].map(|()| {
            (0..2 * 8 * 8 * 3)
                .map(|_| rng.below(256) as u8)
                .collect::<Vec<u8>>()
        });
        let texts = [
            vec![vec![18, 1, 19]; 2],
            vec![vec![18, 1], vec![19, 18, 1, 19]],
        ];
        let read = |f: [Tensor; 2]| f.map(|t| backend.download(&t).unwrap());
        for round in 0..2 {
            let mut fresh = 0;
            for (teacher, share) in &teachers {
                for pixels in &images {
                    for texts in &texts {
                        let by = Normalisation::OPENAI;
                        let images = backend.images(&[2, 8, 8, 3], pixels, &by).unwrap();
                        let compute = || teacher.compute(&backend, &images, texts);
                        let want = compute().unwrap();
                        let batch = (pixels.as_slice(), texts.as_slice());
                        let got = share.features(backend.as_ref(), batch, 8, compute);
                        assert_eq!(read(got.unwrap()), read(want));
                        fresh += 1;
                        let held = cache.lock();
                        let (all, hits) = if round == 0 { (fresh, 0) } else { (8, fresh) };
                        assert_eq!((held.features.len(), held.bytes), (all, all * 4 * 4 * 8));
                        assert_eq!(held.hits, hits as u64);
                    }
                }
            }
        }
    }
}
