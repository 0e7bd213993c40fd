//! IDX files, whole and damaged.

use std::{
    fs,
    path::{Path, PathBuf},
};

use eranos_base::{Entropy, SeededEntropy};
use eranos_nn::data::{
    DataError, VALUES_MAX,
    idx::{self, IdxArray, IdxValues},
};

use crate::{below, gzip};

fn parse(bytes: &[u8]) -> Result<IdxArray, DataError> {
    idx::parse(bytes, Path::new("x.idx"))
}

fn file(shape: &[u32], values: &[u8]) -> Vec<u8> {
    file_of_type(8, shape, values)
}

fn file_of_type(code: u8, shape: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, code, shape.len() as u8];
    for length in shape {
        bytes.extend(length.to_le_bytes().iter().rev());
    }
    bytes.extend(values);
    bytes
}

#[test]
fn plain_and_compressed_files_read_the_same() {
    let bytes = file(&[2, 3, 1], &[0, 1, 2, 3, 4, 255]);
    let expected = IdxArray { shape: vec![2, 3, 1], values: IdxValues::U8(vec![0, 1, 2, 3, 4, 255]) };
    assert_eq!(parse(&bytes).expect("plain"), expected);
    assert_eq!(parse(&gzip(&bytes)).expect("gzip"), expected);
    assert_eq!(parse(&file(&[0, 28, 28], &[])).expect("empty").shape, [0, 28, 28]);
}

#[test]
fn short_integers_are_big_endian_and_members_of_gzip_are_all_read() {
    let bytes = file_of_type(0x0b, &[2, 2], &[0x00, 0x01, 0xff, 0xfe, 0x7f, 0xff, 0x80, 0x00]);
    let expected = IdxArray { shape: vec![2, 2], values: IdxValues::I16(vec![1, -2, 32767, -32768]) };
    assert_eq!(parse(&bytes).expect("plain"), expected);
    assert_eq!(parse(&gzip(&bytes)).expect("gzip"), expected);
    assert_eq!(parse(&[gzip(&bytes[..9]), gzip(&bytes[9..])].concat()).expect("two members"), expected);
    assert_eq!(expected.values.into_f32(), [1.0, -2.0, 32767.0, -32768.0]);
    let cut = parse(&bytes[..bytes.len() - 1]).expect_err("half a value");
    assert!(matches!(cut, DataError::Truncated { found: 7, expected: 8, .. }), "{cut}");
}

#[test]
fn each_damage_has_its_error() {
    let bytes = file(&[2, 3], &[1; 6]);
    let error = |bytes: &[u8]| parse(bytes).expect_err("damaged");
    for len in 0..bytes.len() {
        let found = error(&bytes[..len]);
        assert!(matches!(found, DataError::Truncated { .. } | DataError::Magic { .. }), "cut to {len}: {found}");
    }
    assert!(matches!(error(&bytes[..bytes.len() - 1]), DataError::Truncated { found: 5, expected: 6, .. }));
    assert!(matches!(error(&[&bytes[..], &[0]].concat()), DataError::Trailing { expected: 6, .. }));
    assert!(matches!(error(b"\x89PNG\r\n"), DataError::Magic { .. }));
    assert!(matches!(error(b"label,text\n"), DataError::Magic { .. }));
    let mut floats = bytes.clone();
    floats[2] = 0x0d;
    assert!(matches!(error(&floats), DataError::Type { found: 0x0d, .. }));
    let mut axes = bytes;
    axes[3] = 255;
    assert!(matches!(error(&axes), DataError::Limit { what: "a number of axes", .. }));
}

#[test]
fn a_header_that_claims_the_world_allocates_nothing() {
    for shape in [vec![u32::MAX], vec![1 << 20, u32::MAX, u32::MAX, u32::MAX], vec![0, 1 << 30, 1 << 30, 1 << 30]] {
        assert!(matches!(parse(&file(&shape, &[])).expect_err("huge"), DataError::Limit { .. }), "{shape:?}");
    }
    // Below the limit, and still not there: what is read is what there is.
    let claimed = file(&[1 << 20, 1000], &[7; 10]);
    assert!(matches!(
        parse(&claimed).expect_err("short"),
        DataError::Truncated { found: 10, expected: 1_048_576_000, .. }
    ));
    // A bomb: much behind a small header stops one byte after what the header claims.
    let bomb = gzip(&file(&[1], &vec![0; 1 << 24]));
    assert!(matches!(parse(&bomb).expect_err("bomb"), DataError::Trailing { expected: 1, .. }));
    const { assert!(1_048_576_000 <= VALUES_MAX) };
}

#[test]
fn damaged_compression_is_damage_and_never_a_panic() {
    let mut entropy = SeededEntropy::new(31);
    let mut values = vec![0; 5000];
    entropy.fill(&mut values);
    let whole = gzip(&file(&[50, 100], &values));
    for len in (0..whole.len()).step_by(97) {
        assert!(parse(&whole[..len]).is_err(), "cut to {len}");
    }
    for _ in 0..2000 {
        let mut damaged = whole.clone();
        let at = below(damaged.len(), &mut entropy);
        damaged[at] ^= 1 << below(8, &mut entropy);
        if let Ok(array) = parse(&damaged) {
            assert_eq!(
                (array.shape, array.values),
                (vec![50, 100], IdxValues::U8(values.clone())),
                "a flip in gzip's own header only"
            );
        }
    }
}

#[test]
fn random_bytes_never_panic_and_never_pass_unless_they_are_idx() {
    let mut entropy = SeededEntropy::new(32);
    for round in 0..20_000 {
        let mut bytes = vec![0; below(64, &mut entropy)];
        entropy.fill(&mut bytes);
        match round % 3 {
            0 if bytes.len() >= 4 => bytes[..4].copy_from_slice(&[0, 0, [8, 11][round % 2], 1 + (round % 4) as u8]),
            1 if bytes.len() >= 2 => bytes[..2].copy_from_slice(&[0x1f, 0x8b]),
            _ => {}
        }
        if let Ok(array) = parse(&bytes) {
            assert_eq!(array.values.len(), array.shape.iter().product::<usize>());
        }
    }
}

#[test]
fn images_and_labels_that_do_not_belong_together_are_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let write = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("write");
        path
    };
    let images = write("images", &gzip(&file(&[3, 2, 2], &[0, 51, 102, 153, 204, 255, 0, 0, 0, 0, 0, 255])));
    let labels = write("labels", &file(&[3], &[0, 9, 4]));
    let data = idx::read_images(&images, &labels, 10).expect("data");
    assert_eq!((data.len(), data.shape(), data.labels()), (3, &[2, 2, 1][..], &[0, 9, 4][..]));
    assert_eq!(data.record(0), [0.0, 0.2, 0.4, 0.6]);
    assert_eq!(data.subset(&[2, 0]).record(0), data.record(2));

    let error = |images: &Path, labels: &Path, n| idx::read_images(images, labels, n).expect_err("mismatch");
    let few = write("few", &file(&[2], &[0, 1]));
    assert!(matches!(error(&images, &few, 10), DataError::Counts { n_records: 3, n_labels: 2, .. }));
    assert!(matches!(error(&images, &labels, 9), DataError::Label { record: 1, found: 9, n_classes: 9, .. }));
    assert!(matches!(error(&labels, &images, 10), DataError::Axes { found: 1, .. }));
    assert!(matches!(error(&images, &images, 10), DataError::Axes { found: 3, .. }));
    assert!(matches!(error(&folder.path().join("none"), &labels, 10), DataError::Read { .. }));
    let shorts = write("shorts", &file_of_type(0x0b, &[3, 1, 1], &[0, 1, 0, 2, 0xff, 0xff]));
    assert!(matches!(error(&shorts, &labels, 10), DataError::Type { found: 0x0b, .. }));
    let records = idx::read_records(&shorts, &labels, 10).expect("records");
    assert_eq!((records.shape(), records.features().iter().sum::<f32>()), (&[1, 1][..], 2.0));
    for error in [error(&images, &few, 10), error(&images, &labels, 9), error(&labels, &images, 10)] {
        let shown = error.user_error().to_string();
        assert_eq!(shown.lines().count(), 2, "{shown}");
    }
}
