use super::super::options::CaptionSource;
use super::*;
use std::io::Write;

/// A tar of these files.
pub fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn read_all(bytes: Vec<u8>, options: &DatasetOptions) -> (Vec<Sample>, Skips) {
    let source = ShardSource::Memory {
        name: "test.tar".into(),
        bytes: bytes.leak(),
    };
    let (mut samples, mut skips) = (Vec::new(), Skips::default());
    read(&source, options, &mut skips, &mut |s| {
        samples.push(s);
        ControlFlow::Continue(())
    })
    .unwrap();
    (samples, skips)
}

#[test]
fn groups_by_base_name_and_reads_every_source_of_texts() {
    let tar = tar_of(&[
        ("a/1.jpg", b"J"),
        ("a/1.txt", b" one \n"),
        ("a/1.cls", b"3\n"),
        ("b/1.png", b"P"),
        ("b/1.json", br#"{"caption": "two", "class": "cat"}"#),
        ("__meta__/x.json", b"{}"),
        ("__c.jpg", b"C"),
        ("__c.txt", b"three"),
        ("d.WEBP", b"W"),
        ("d.json", br#"{"captions": ["x", " ", "y"], "class": 7}"#),
        ("d.jpg", b"preferred"),
        ("d.jpg", b"again"),
        ("d.txt", b"repeated"),
    ]);
    let (samples, skips) = read_all(tar, &DatasetOptions::default());
    assert!(skips.is_empty(), "{skips}");
    let seen: Vec<_> = samples
        .iter()
        .map(|s| (s.key.as_str(), s.captions.join("|"), s.class.as_deref()))
        .collect();
    assert_eq!(
        seen,
        [
            ("a/1", "one".to_owned(), Some("3")),
            ("b/1", "two".to_owned(), Some("cat")),
            ("__c", "three".to_owned(), None),
            ("d", "x|y".to_owned(), Some("7")),
            ("d", "repeated".to_owned(), None),
        ]
    );
    assert!(matches!(&samples[3].image, ImageBytes::Bytes(b) if b == b"preferred"));
}

#[test]
fn every_skip_is_counted() {
    let tar = tar_of(&[
        ("1.jpg", b"J"),
        ("2.txt", b"no image"),
        ("3.jpg", b"J"),
        ("3.txt", b" \n"),
        ("4.jpg", b"J"),
        ("4.txt", b"\xFF\xFE"),
        ("5.jpg", b"J"),
        ("5.json", b"{"),
        ("6.jpg", b"J"),
        ("6.json", br#"{"caption": 5}"#),
        ("7.jpg", b"J"),
        ("7.txt", b"fine"),
    ]);
    let (samples, skips) = read_all(tar.clone(), &DatasetOptions::default());
    assert_eq!(samples.len(), 1);
    for (kind, count) in [
        (SkipKind::MissingImage, 1),
        (SkipKind::MissingCaption, 2),
        (SkipKind::EmptyCaption, 1),
        (SkipKind::NonUtf8Caption, 1),
        (SkipKind::MalformedJson, 1),
    ] {
        assert_eq!(skips.count(kind), count, "{kind}");
    }
    assert!(skips.to_string().contains("test.tar: 4"), "{skips}");
    let relaxed = DatasetOptions {
        require_caption: false,
        ..DatasetOptions::default()
    };
    assert_eq!(read_all(tar, &relaxed).0.len(), 6);
}

#[test]
fn a_truncated_tar_gives_what_came_before() {
    let picture = vec![7u8; 5000];
    let tar = tar_of(&[
        ("1.jpg", &picture),
        ("1.txt", b"one"),
        ("2.jpg", &picture),
        ("2.txt", b"two"),
    ]);
    // The first sample takes 512 + 5120 + 1024 bytes.
    for (cut, whole, damaged) in [
        (0, 0, 1),
        (100, 0, 1),
        (512, 0, 1),
        (3000, 0, 1),
        (6656 + 300, 1, 1),
        (6656 + 3000, 1, 1),
        (tar.len() - 1024 - 512 - 1, 1, 1),
        (tar.len(), 2, 0),
    ] {
        let (samples, skips) = read_all(tar[..cut].to_vec(), &DatasetOptions::default());
        assert_eq!(samples.len(), whole, "cut at {cut}");
        assert_eq!(skips.count(SkipKind::DamagedShard), damaged, "cut at {cut}");
    }
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zipped.write_all(&tar).unwrap();
    let zipped = zipped.finish().unwrap();
    assert_eq!(
        read_all(zipped.clone(), &DatasetOptions::default()).0.len(),
        2
    );
    let (_, skips) = read_all(
        zipped[..zipped.len() - 30].to_vec(),
        &DatasetOptions::default(),
    );
    assert_eq!(skips.count(SkipKind::DamagedShard), 1);
}

/// Megabytes of zeros are kilobytes of gzip: a long name must not fill the memory.
#[test]
fn a_name_of_megabytes_ends_the_shard() {
    let mut long = tar::Header::new_gnu();
    long.set_entry_type(tar::EntryType::GNULongName);
    long.set_path("././@LongLink").unwrap();
    let name = vec![b'n'; 4 << 20];
    long.set_size(name.len() as u64);
    long.set_cksum();
    // Before it, a file that is larger than any header may be.
    let picture = vec![7u8; 3 << 20];
    let before = tar_of(&[("1.jpg", &picture), ("1.txt", b"one")]);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&long, name.as_slice()).unwrap();
    let tar = [
        &before[..before.len() - 1024],
        &builder.into_inner().unwrap(),
    ]
    .concat();
    let (samples, skips) = read_all(tar, &DatasetOptions::default());
    assert_eq!(samples.len(), 1);
    assert!(skips.to_string().contains("far too large"), "{skips}");
}

#[test]
fn garbage_is_reported() {
    let (samples, skips) = read_all(vec![0xA5; 4096], &DatasetOptions::default());
    assert!(samples.is_empty());
    assert_eq!(skips.count(SkipKind::DamagedShard), 1);
}

/// The captions of one sample with this text and this JSON, joined, and what is noted.
fn captions(text: Option<&str>, json: Option<&str>, options: &DatasetOptions) -> (String, Skips) {
    let mut files: Vec<(&str, &[u8])> = vec![("1.jpg", b"J")];
    files.extend(text.map(|t| ("1.txt", t.as_bytes())));
    files.extend(json.map(|j| ("1.json", j.as_bytes())));
    let (samples, skips) = read_all(tar_of(&files), options);
    let joined = samples.first().map(|s| s.captions.join("|"));
    (joined.unwrap_or_default(), skips)
}

/// Which source is read where there are several, and that it is said where they differ.
#[test]
fn one_rule_finds_the_captions() {
    use SkipKind::*;
    let list = r#"{"captions": ["a", " ", "b"], "caption": "a"}"#;
    let single = r#"{"caption": "c"}"#;
    for (text, json, found, kinds) in [
        (Some("t"), None, "t", &[][..]),
        (Some("a"), Some(list), "a|b", &[]),
        (Some("t"), Some(list), "a|b", &[OtherCaption]),
        (Some("c"), Some(single), "c", &[]),
        (Some("t"), Some(single), "t", &[OtherCaption]),
        (Some(" \n"), Some(single), "c", &[]),
        (Some(""), None, "", &[EmptyCaption]),
        (Some("t"), Some(r#"{"captions": []}"#), "t", &[]),
        (
            Some("t"),
            Some(r#"{"captions": null, "caption": NaN}"#),
            "t",
            &[LenientJson],
        ),
        (None, Some(r#"{"captions": "s"}"#), "s", &[]),
        (None, Some(r#"{"caption": ["x", "y"]}"#), "x|y", &[]),
        (Some("t"), Some("{"), "t", &[IgnoredJson]),
        (None, Some("{"), "", &[MalformedJson]),
        (Some("one\n\ntwo\n"), None, "one\n\ntwo", &[SeveralLines]),
    ] {
        let (read, skips) = captions(text, json, &DatasetOptions::default());
        assert_eq!(read, found, "{text:?} {json:?}");
        let noted: Vec<SkipKind> = skips.iter().map(|(kind, ..)| kind).collect();
        assert_eq!(noted, kinds, "{text:?} {json:?}");
    }
    let lines = DatasetOptions {
        caption_lines: true,
        ..DatasetOptions::default()
    };
    let (read, skips) = captions(Some("one\n\ntwo\n"), None, &lines);
    assert_eq!((read.as_str(), skips.is_empty()), ("one|two", true));
}

#[test]
fn keys_are_named_by_flags() {
    let tar = tar_of(&[
        ("1.input.jpg", b"in"),
        ("1.output.jpg", b"out"),
        ("1.caption", b"from a member"),
        ("1.txt", b"from the text"),
        (
            "1.json",
            br#"{"Long": "l", "short": ["s1", "s2"], "alt": " ", "spare": "x"}"#,
        ),
    ]);
    let of = |captions: CaptionSource| {
        let options = DatasetOptions {
            image_keys: vec!["input.jpg".into()],
            captions,
            ..DatasetOptions::default()
        };
        let (samples, skips) = read_all(tar.clone(), &options);
        let sample = samples.into_iter().next().ok_or(skips)?;
        assert!(matches!(&sample.image, ImageBytes::Bytes(b) if b == b"in"));
        Ok::<_, Skips>((sample.captions.join("|"), sample.weights))
    };
    let members =
        |keys: &[&str]| CaptionSource::Members(keys.iter().map(|k| (*k).into()).collect());
    assert_eq!(
        of(members(&["none", "caption", "txt"])).unwrap().0,
        "from a member"
    );
    let json = |keys: &[&str], weights: &[f32]| CaptionSource::Json {
        keys: keys.iter().map(|k| (*k).into()).collect(),
        weights: weights.to_vec(),
    };
    for (keys, weights, texts, chances) in [
        (&["alt", "Long", "short"][..], &[][..], "l", &[][..]),
        (
            &["Long", "short", "alt"],
            &[3.0, 1.0, 5.0],
            "l|s1|s2",
            &[3.0, 0.5, 0.5],
        ),
        (&["alt", "spare"], &[1.0], "x", &[]),
        (&["spare", "Long"], &[0.0, 1.0], "l", &[1.0]),
    ] {
        let found = of(json(keys, weights)).unwrap();
        assert_eq!((found.0.as_str(), found.1.as_slice()), (texts, chances));
    }
    // As in open_clip, the JSON named is the only source.
    let skips = of(json(&["alt", "none"], &[])).unwrap_err();
    assert_eq!(skips.count(SkipKind::EmptyCaption), 1);
}

/// open_clip orders the keys by drawing without replacement and takes the first that has a text: the shares
/// that its `_weighted_order` gives over 10 000 draws with the same keys.
#[test]
fn captions_are_drawn_by_their_weights() {
    let image = ImageBytes::Bytes(Vec::new());
    let texts = ["l", "s1", "s2"].map(str::to_owned).to_vec();
    let sample = Sample::new("1".into(), image, texts, None).weighted(vec![3.0, 0.5, 0.5]);
    let n = 1000;
    let mut counts = [0; 3];
    (0..n).for_each(|i| counts[sample.caption_at(i as f32 / n as f32)] += 1);
    assert_eq!(counts, [750, 125, 125]);
}

#[test]
fn what_is_not_read_is_counted() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Link);
    link.set_size(0);
    builder.append_link(&mut link, "5.jpg", "1.jpg").unwrap();
    let links = builder.into_inner().unwrap();
    let tar = tar_of(&[
        ("1.jpg", b"J"),
        ("1.txt", b"t"),
        ("1.npy", b"N"),
        ("St. Anna.jpg", b"J"),
        ("St. Anna.txt", b"t"),
        ("0001.input.JPG", b"J"),
        (".hidden.jpg", b"H"),
        ("folder/readme", b"R"),
    ]);
    let tar = [&links[..links.len() - 1024], &tar].concat();
    let (samples, skips) = read_all(tar, &DatasetOptions::default());
    assert_eq!(samples.len(), 1);
    for (kind, count) in [
        (SkipKind::DottedName, 2),
        (SkipKind::UnusedEntry, 4),
        (SkipKind::NotAFile, 1),
    ] {
        assert_eq!(skips.count(kind), count, "{skips}");
    }
    assert_eq!(skips.total(), 2, "{skips}");
}

#[test]
fn tars_in_one_file_are_all_read() {
    let one = tar_of(&[("1.jpg", b"J"), ("1.txt", b"one")]);
    let two = tar_of(&[("1.jpg", b"J"), ("1.txt", b"two")]);
    // GNU tar fills a record of 10 240 bytes.
    let padded = [one.clone(), vec![0; 10_240 - one.len()], two.clone()].concat();
    for joined in [[one.clone(), two].concat(), padded] {
        let (samples, skips) = read_all(joined, &DatasetOptions::default());
        let read: Vec<_> = samples.iter().map(|s| s.captions[0].as_str()).collect();
        assert_eq!(read, ["one", "two"]);
        assert_eq!(skips.count(SkipKind::JoinedTars), 1);
        assert_eq!(skips.total(), 0);
    }
    let (samples, skips) = read_all(
        [one, b"trailing".to_vec()].concat(),
        &DatasetOptions::default(),
    );
    assert_eq!(samples.len(), 1);
    assert_eq!(skips.count(SkipKind::TrailingBytes), 1);
}

#[cfg(unix)]
#[test]
fn commands_give_shards_and_their_failure_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.tar");
    let many: Vec<(String, Vec<u8>)> = (0..50)
        .flat_map(|i| {
            [
                (format!("{i}.jpg"), vec![7; 20_000]),
                (format!("{i}.txt"), b"t".to_vec()),
            ]
        })
        .collect();
    let many: Vec<(&str, &[u8])> = many
        .iter()
        .map(|(p, b)| (p.as_str(), b.as_slice()))
        .collect();
    std::fs::write(&path, tar_of(&many)).unwrap();
    let run = |command: String, most: usize| {
        let patterns = format!("pipe:{command}");
        let source = &super::super::pattern::expand(&patterns).unwrap()[0];
        let (mut samples, mut skips) = (0, Skips::default());
        let read = read(source, &DatasetOptions::default(), &mut skips, &mut |_| {
            samples += 1;
            match samples < most {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
        read.unwrap();
        (samples, skips)
    };
    let path = path.display();
    let (samples, skips) = run(format!("cat {path}"), usize::MAX);
    assert_eq!((samples, skips.is_empty()), (50, true));
    let (samples, skips) = run(format!("cat {path} | gzip -1"), usize::MAX);
    assert_eq!((samples, skips.is_empty()), (50, true));
    // Stopped early: the command is ended, and its end is no failure.
    let (samples, skips) = run(format!("cat {path}; sleep 100"), 2);
    assert_eq!((samples, skips.is_empty()), (2, true));
    let (samples, skips) = run(format!("cat {path}; exit 7"), usize::MAX);
    assert_eq!((samples, skips.count(SkipKind::FailedCommand)), (50, 1));
    assert!(skips.to_string().contains('7'), "{skips}");
    let (_, skips) = run("exit 22".into(), usize::MAX);
    assert_eq!(
        (skips.shards(), skips.count(SkipKind::FailedCommand)),
        (1, 1)
    );
    // What it gives is no tar, though the command is content.
    let (_, skips) = run("echo '<html>'; cat /dev/zero".into(), usize::MAX);
    assert_eq!(skips.count(SkipKind::DamagedShard), 1, "{skips}");
}

/// Contiguous files are plain ones; of sparse files GNU's old form is read, holes and all, and POSIX's is counted.
#[test]
fn contiguous_and_sparse_members() {
    let header = |name: &str, kind: tar::EntryType, size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_entry_type(kind);
        header.set_size(size);
        header
    };
    let mut builder = tar::Builder::new(Vec::new());
    let mut plain = header("1.jpg", tar::EntryType::Continuous, 4);
    plain.set_cksum();
    builder.append(&plain, &b"JPEG"[..]).unwrap();
    let mut text = header("1.txt", tar::EntryType::Regular, 3);
    text.set_cksum();
    builder.append(&text, &b"one"[..]).unwrap();
    // 1000 bytes, of which the last 488 are there.
    let mut sparse = header("2.jpg", tar::EntryType::GNUSparse, 488);
    let gnu = sparse.as_gnu_mut().unwrap();
    let octal = |n: u64| -> [u8; 12] { format!("{n:011o}\0").into_bytes().try_into().unwrap() };
    gnu.realsize = octal(1000);
    (gnu.sparse[0].offset, gnu.sparse[0].numbytes) = (octal(512), octal(488));
    sparse.set_cksum();
    builder.append(&sparse, &[7u8; 488][..]).unwrap();
    let mut text = header("2.txt", tar::EntryType::Regular, 3);
    text.set_cksum();
    builder.append(&text, &b"two"[..]).unwrap();
    builder
        .append_pax_extensions([("GNU.sparse.major", &b"1"[..])])
        .unwrap();
    let mut posix = header("3.jpg", tar::EntryType::Regular, 4);
    posix.set_cksum();
    builder.append(&posix, &b"0\n.."[..]).unwrap();
    let (samples, skips) = read_all(builder.into_inner().unwrap(), &DatasetOptions::default());
    let bytes: Vec<&Vec<u8>> = samples
        .iter()
        .map(|s| match &s.image {
            ImageBytes::Bytes(bytes) => bytes,
            ImageBytes::File(path) => panic!("{}", path.display()),
        })
        .collect();
    assert_eq!(
        bytes,
        [&b"JPEG".to_vec(), &[vec![0; 512], vec![7; 488]].concat()]
    );
    assert_eq!(skips.count(SkipKind::NotAFile), 1, "{skips}");
    assert_eq!(skips.total(), 0, "{skips}");
}
