use super::*;

fn parse(text: &[u8], options: &CsvOptions) -> Result<(Vec<Sample>, Skips)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.csv");
    std::fs::write(&path, text).unwrap();
    read(&path, options)
}

fn captions(text: &[u8]) -> Vec<String> {
    let (samples, skips) = parse(text, &CsvOptions::default()).unwrap();
    assert!(skips.is_empty(), "{skips}");
    samples.into_iter().flat_map(|s| s.captions).collect()
}

fn refusal(text: &[u8], options: &CsvOptions) -> String {
    parse(text, options).err().unwrap().to_string()
}

#[test]
fn quotes_line_ends_and_skips() {
    let options = CsvOptions {
        separator: Some(','),
        data_root: Some("/data".into()),
        ..CsvOptions::default()
    };
    let text = b"\xEF\xBB\xBFid,title,filepath\r\n1,\"a, \"\"b\"\"\nc\",x.jpg\r\n\r\n \n\
        2,  ,y.jpg\n3,\xFF,z.jpg\n4,only,\n5,a 6\" ruler,/abs/w.jpg";
    let (samples, skips) = parse(text, &options).unwrap();
    assert_eq!(samples.len(), 2);
    assert_eq!(samples[0].captions, ["a, \"b\"\nc"]);
    assert!(matches!(&samples[0].image, ImageBytes::File(p) if p == Path::new("/data/x.jpg")));
    assert_eq!(samples[1].captions, ["a 6\" ruler"]);
    assert!(matches!(&samples[1].image, ImageBytes::File(p) if p == Path::new("/abs/w.jpg")));
    assert_eq!(skips.count(SkipKind::EmptyCaption), 1);
    assert_eq!(skips.count(SkipKind::NonUtf8Caption), 1);
    assert_eq!(skips.count(SkipKind::MissingImage), 1);
    assert!(skips.to_string().contains("line 6"), "{skips}");
}

#[test]
fn the_header_tells_the_separator() {
    for table in [
        "filepath\ttitle\na.jpg\ta cat, or two\n",
        "filepath,title\na.jpg,\"a cat, or two\"\n",
        "title|filepath\na cat, or two|a.jpg\n",
        "filepath;x;title\na.jpg;;\"a cat, or two\"\n",
    ] {
        assert_eq!(captions(table.as_bytes()), ["a cat, or two"]);
    }
    // A header of which the one separator makes no two columns.
    let error = refusal(b"filepath title\na.jpg a\n", &CsvOptions::default());
    assert!(error.contains("\"filepath title\""), "{error}");
    let error = refusal(b"a.jpg\ta cat\nb.jpg\tanother\n", &CsvOptions::default());
    assert!(error.contains("looks like data"), "{error}");
    // A flag is obeyed.
    let tab = CsvOptions {
        separator: Some('\t'),
        ..CsvOptions::default()
    };
    assert!(refusal(b"filepath,title\na,b\n", &tab).contains("no column"));
}

/// pandas 3.1: "Expected 2 fields in line 3, saw 3". It fills short rows with NaN, which open_clip then trains on
/// as the word "nan"; here they are refused, too.
#[test]
fn ragged_rows_are_refused_with_their_line() {
    let text = b"filepath,title\na.jpg,one\nb.jpg,two, with a comma\n";
    let error = refusal(text, &CsvOptions::default());
    for words in ["line 3", "3 fields", "header has 2", "comma", "quoted"] {
        assert!(error.contains(words), "{error}");
    }
    let error = refusal(
        b"filepath,title\n\"a\n.jpg\",one\nb.jpg\n",
        &CsvOptions::default(),
    );
    assert!(
        error.contains("line 4") && error.contains("1 fields"),
        "{error}"
    );
}

#[test]
fn encodings_and_line_ends() {
    let text = "filepath\ttitle\nä.jpg\tnaïve café 😀\nb.jpg\tb\n";
    let want = ["naïve café 😀", "b"];
    let utf16 = |text: &str, mark: &[u8], bytes: fn(u16) -> [u8; 2]| {
        let mut out = mark.to_vec();
        out.extend(text.encode_utf16().flat_map(bytes));
        out
    };
    assert_eq!(captions(text.as_bytes()), want);
    assert_eq!(captions(&utf16(text, b"\xff\xfe", u16::to_le_bytes)), want);
    assert_eq!(captions(&utf16(text, b"\xfe\xff", u16::to_be_bytes)), want);
    assert_eq!(captions(text.replace('\n', "\r\n").as_bytes()), want);
    assert_eq!(captions(text.replace('\n', "\r").as_bytes()), want);
    let unmarked = utf16(text, b"", u16::to_le_bytes);
    assert!(refusal(&unmarked, &CsvOptions::default()).contains("UTF-16"));
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut zipped, text.as_bytes()).unwrap();
    assert_eq!(captions(&zipped.finish().unwrap()), want);
}

#[test]
fn what_is_wrong_is_said() {
    let options = CsvOptions::default();
    let error = refusal(b"path\ttitle\n", &options);
    assert!(error.contains("'filepath'"), "{error}");
    let error = refusal(b"filepath\ttitle\na\tb\nc\t\"d", &options);
    assert!(error.contains("line 3"), "{error}");
    assert!(parse(b"", &options).is_err());
    assert!(read(Path::new("/nowhere/x.csv"), &options).is_err());
}
