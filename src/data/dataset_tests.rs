use super::super::pattern::expand_groups;
use super::super::sample::ImageBytes;
use super::super::webdataset::tests::tar_of;
use super::*;
use std::collections::HashSet;

fn folder_of_shards() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..4 {
        let tar = tar_of(&[("1.jpg", b"J"), ("1.txt", b"t"), ("2.jpg", b"J")]);
        std::fs::write(folder.path().join(format!("{i}.tar")), tar).unwrap();
    }
    folder
}

fn rows(n: usize) -> Vec<Sample> {
    let sample = |i: usize| {
        let image = ImageBytes::Bytes(Vec::new());
        Sample::new(i.to_string(), image, Vec::new(), None)
    };
    (0..n).map(sample).collect()
}

fn order(round: u32) -> Order {
    Order {
        seed: 3,
        round,
        shuffled: true,
    }
}

/// The numbers and keys of the first `most` samples of a round.
fn round(data: &Dataset, round: u32, most: usize) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    for visit in data.visits(order(round)) {
        let flow = data.visit(
            visit,
            order(round),
            &mut Skips::default(),
            &mut |n, sample| {
                all.push((n, sample.key.clone()));
                match all.len() < most {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            },
        );
        if flow.unwrap().is_break() {
            break;
        }
    }
    all
}

#[test]
fn upsampling_repeats_with_distinct_numbers() {
    let folder = folder_of_shards();
    let root = folder.path().display();
    let patterns = format!("{root}/{{0..1}}.tar::{root}/{{2..3}}.tar");
    let groups = || expand_groups(&patterns).unwrap();
    let of =
        |factors: &[f32]| Dataset::upsampled(groups(), Some(factors), DatasetOptions::default());
    let data = of(&[2.0, 0.5]).unwrap();
    let mut halves = 0;
    for number in 0..200 {
        let visits: Vec<Visit> = data.visits(order(number)).collect();
        assert_eq!(visits.iter().filter(|v| v.part < 2).count(), 4);
        halves += visits.len() - 4;
    }
    assert!((150..250).contains(&halves), "{halves}");
    let all = round(&data, 0, usize::MAX);
    let numbers: HashSet<u64> = all.iter().map(|(n, _)| *n).collect();
    assert_eq!(numbers.len(), all.len());
    let identities: HashSet<u64> = numbers.iter().map(|n| data.identity(*n)).collect();
    assert!(identities.len() < numbers.len() && identities.is_subset(&numbers));
    assert!(of(&[1.0]).is_err());
    assert!(of(&[1.0, f32::NAN]).is_err());
    assert!(of(&[1.0, 1e8]).is_err());
}

#[test]
fn tables_are_shuffled_together_and_repeated() {
    let tables = || vec![(rows(50), Skips::default()), (rows(10), Skips::default())];
    let of = |factors: &[f32]| {
        Dataset::from_tables(tables(), Some(factors), DatasetOptions::default()).unwrap()
    };
    let data = of(&[1.0, 3.0]);
    let all = round(&data, 0, usize::MAX);
    assert_eq!(all.len(), 80);
    let numbers: HashSet<u64> = all.iter().map(|(n, _)| *n).collect();
    let rows: HashSet<u64> = all.iter().map(|(n, _)| data.identity(*n)).collect();
    assert_eq!((numbers.len(), rows.len()), (80, 60));
    // The second table's rows are everywhere.
    let late = all[..40].iter().filter(|(n, _)| data.identity(*n) >= 50);
    assert!((8..23).contains(&late.count()));
    assert_ne!(round(&data, 1, 80), all);
    assert_eq!(data.rows().unwrap().0, 80.0);
}

/// Over many draws each part has its share: 3 : 1 of four shards, and of the rows of two tables.
#[test]
fn resampling_draws_by_the_factors() {
    let folder = folder_of_shards();
    let root = folder.path().display();
    let groups = expand_groups(&format!("{root}/{{0..1}}.tar::{root}/{{2..3}}.tar")).unwrap();
    let shards = Dataset::upsampled(groups, Some(&[3.0, 1.0]), DatasetOptions::default());
    let shards = shards.unwrap().resampled();
    let n = 4000;
    let parts: Vec<usize> = shards.visits(order(0)).take(n).map(|v| v.part).collect();
    for (part, share) in [(0, 0.375), (1, 0.375), (2, 0.125), (3, 0.125)] {
        let found = parts.iter().filter(|p| **p == part).count() as f64;
        let deviation = (n as f64 * share * (1.0 - share)).sqrt();
        assert!(
            (found - n as f64 * share).abs() < 5.0 * deviation,
            "{part}: {found}"
        );
    }
    let numbers: HashSet<u64> = round(&shards, 0, 500).into_iter().map(|(n, _)| n).collect();
    assert_eq!(numbers.len(), 500);
    let tables = vec![(rows(10), Skips::default()), (rows(30), Skips::default())];
    let tables = Dataset::from_tables(tables, Some(&[3.0, 1.0]), DatasetOptions::default());
    let tables = tables.unwrap().resampled();
    let drawn = round(&tables, 0, n);
    let first = drawn
        .iter()
        .filter(|(n, _)| tables.identity(*n) < 10)
        .count() as f64;
    let deviation = (n as f64 * 0.25).sqrt();
    assert!((first - n as f64 / 2.0).abs() < 5.0 * deviation, "{first}");
    assert_ne!(drawn[..20], round(&tables, 1, 20));
}

#[test]
fn draws_are_uniform_distinct_and_in_order() {
    let data = Dataset::from_samples(rows(10), Skips::default(), DatasetOptions::default());
    let mut counts = [0u32; 10];
    for seed in 0..2000 {
        let mut rng = Philox::new(seed, Purpose::Test, 0, 0);
        let drawn = data.draw(3, &mut rng).unwrap();
        let keys: Vec<usize> = drawn.iter().map(|s| s.key.parse().unwrap()).collect();
        assert!(
            keys.len() == 3 && keys.is_sorted_by(|a, b| a < b),
            "{keys:?}"
        );
        keys.iter().for_each(|&k| counts[k] += 1);
    }
    // 600 ± 20.5 each; five deviations.
    assert!(counts.iter().all(|c| (497..703).contains(c)), "{counts:?}");
    let mut rng = Philox::new(0, Purpose::Test, 0, 0);
    assert_eq!(data.draw(20, &mut rng).unwrap().len(), 10);
}

#[test]
fn missing_shards_are_named() {
    let missing = vec![ShardSource::Path("nowhere/9.tar".into())];
    let error = Dataset::from_shards(missing, DatasetOptions::default()).unwrap_err();
    assert!(error.to_string().contains("9.tar"), "{error}");
}
