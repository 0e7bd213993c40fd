//! What the records of a task are, as bytes and as checks of a client's files.

use std::path::Path;

use eranos_base::{Entropy, SeededEntropy};
use eranos_nn::{
    DataError, DataSpec, Dataset,
    data::{
        Files, Format, Misfit, Schema, Standardization, Table,
        schema::{Input, Label},
        text::{Side, Tokenizer, TokenizerSettings},
    },
};
use ndarray::Array2;

use crate::below;

fn text(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn specs() -> Vec<DataSpec> {
    let settings = TokenizerSettings { oov_token: Some("<OOV>".to_owned()), ..TokenizerSettings::default() };
    let tokenizer = Tokenizer::fit(settings, ["call me now", "call now"]).expect("words");
    let (column, padding, truncating) = ("text".to_owned(), Side::Pre, Side::Post);
    let messages = Schema::new(
        vec![Input::Text { column, tokenizer, maxlen: 4, padding, truncating }],
        Label::Listed { column: "label".to_owned(), values: text(&["ham", "spam"]) },
    );
    let ratings = Schema::new(
        vec![
            Input::Listed { column: "user".to_owned(), values: text(&["7", "9"]) },
            Input::Integer { column: "item".to_owned(), n_ids: 3 },
            Input::Numbers { columns: text(&["age", "height"]) },
        ],
        Label::AtLeast { column: "rating".to_owned(), threshold: 4.0 },
    );
    let standardization = Standardization::new(vec![1.0, -2.0], vec![0.5, 4.0]).expect("constants");
    vec![
        DataSpec::Images { shape: [2, 3, 1], n_classes: 10 },
        DataSpec::Series { steps: 3, standardization, n_classes: 7 },
        DataSpec::Table(messages.expect("schema")),
        DataSpec::Table(ratings.expect("schema")),
    ]
}

#[test]
fn bytes_come_back_as_the_specification_and_damaged_ones_do_not() {
    let mut entropy = SeededEntropy::new(61);
    for spec in specs() {
        let bytes = spec.to_canonical();
        assert_eq!(DataSpec::from_canonical(&bytes).expect("its own bytes"), spec);
        for len in 0..bytes.len() {
            assert!(DataSpec::from_canonical(&bytes[..len]).is_err(), "cut to {len}");
        }
        assert!(DataSpec::from_canonical(&[&bytes[..], &[0]].concat()).is_err(), "one byte more");
        let mut n_accepted = 0;
        for turn in 0..3000 {
            let mut damaged = bytes.clone();
            for _ in 0..1 + below(3, &mut entropy) {
                let at = below(damaged.len(), &mut entropy);
                damaged[at] = entropy.bytes::<1>()[0];
            }
            if let Ok(read) = DataSpec::from_canonical(&damaged) {
                n_accepted += 1;
                assert_eq!(read.to_canonical(), damaged, "seed 61, turn {turn}");
                assert!(read.record_len() > 0 && read.n_classes() > 0, "seed 61, turn {turn}");
            }
        }
        assert!(n_accepted < 3000);
    }
    assert!(DataSpec::from_canonical(&DataSpec::Images { shape: [0, 3, 1], n_classes: 10 }.to_canonical()).is_err());
    assert!(DataSpec::from_canonical(&DataSpec::Images { shape: [2, 3, 1], n_classes: 0 }.to_canonical()).is_err());
}

fn table(text: &str) -> Files {
    Files::Table(Table::parse(text.as_bytes(), Path::new("t.csv"), Format::Csv, None).expect("table"))
}

#[test]
fn a_row_that_does_not_fit_is_an_error_to_its_owner_and_void_to_everybody_else() {
    let spec = &specs()[3];
    let files = table(
        "user,item,age,height,rating\n7,2,30,1.5,4\n8,2,30,1.5,5\n9,3,30,1.5,5\n9,0,x,1.5,5\n9,0,1,inf,5\n9,0,1,1,good\n9,1,2,3,1\n",
    );
    let error = spec.dataset(&files, Misfit::Refuse).expect_err("user 8 is not listed").to_string();
    assert!(error.contains("line 3") && error.contains("\"user\""), "{error}");
    let data = spec.dataset(&files, Misfit::Void).expect("a data set");
    assert_eq!((data.len(), data.labels()), (7, &[1, 0, 0, 0, 0, 0, 0][..]));
    assert_eq!(data.record(0), [0.0, 2.0, 30.0, 1.5]);
    assert_eq!(data.record(6), [1.0, 1.0, 2.0, 3.0]);
    for row in 1..6 {
        assert!(data.record(row).iter().all(|value| value.is_nan()), "row {row}");
    }
}

#[test]
fn files_of_another_form_are_refused_whatever_they_hold() {
    let idx = |shape: &[usize]| {
        let len = shape.iter().product();
        Files::Idx(Dataset::new(Array2::from_elem((2, len), 51.0), vec![0, 1], shape))
    };
    let (specs, messages) = (specs(), table("label,text\nham,call\n"));
    let fits = |spec: &DataSpec, files: &Files| spec.dataset(files, Misfit::Void).is_ok();
    let [images, series, texts, ratings] = &specs[..] else { panic!("four") };
    assert!(fits(images, &idx(&[2, 3])) && fits(images, &idx(&[2, 3, 1])));
    assert!(!fits(images, &idx(&[3, 2])) && !fits(images, &idx(&[6])) && !fits(images, &messages));
    assert!(fits(series, &idx(&[3, 2])) && !fits(series, &idx(&[2, 3])) && !fits(series, &messages));
    assert!(fits(texts, &messages) && !fits(ratings, &messages) && !fits(texts, &idx(&[2, 3])));
    assert!(!fits(texts, &table("label,text,text\nham,call,me\n")), "which text?");
    let pixels = images.dataset(&idx(&[2, 3]), Misfit::Void).expect("images");
    assert_eq!((pixels.record(0), pixels.shape()), (&[0.2; 6][..], &[2, 3, 1][..]));
    let series = series.dataset(&idx(&[3, 2]), Misfit::Void).expect("series");
    assert_eq!(series.record(1)[..2], [100.0, 13.25]);
}

#[test]
fn whether_there_are_too_many_values_follows_from_the_public_bound() {
    let tokenizer = Tokenizer::new(TokenizerSettings::default(), text(&["call"])).expect("words");
    let (padding, truncating) = (Side::Pre, Side::Post);
    let input = Input::Text { column: "text".to_owned(), tokenizer, maxlen: 1 << 20, padding, truncating };
    let label = Label::Listed { column: "label".to_owned(), values: text(&["ham", "spam"]) };
    let spec = DataSpec::Table(Schema::new(vec![input], label).expect("a schema"));
    assert!(spec.check_bound(1024).is_ok());
    assert!(spec.check_bound(1025).is_err());
    // One record more would show in whether a client can train; so the bound is what decides, before it does.
    let rows = table(&format!("label,text\n{}", "ham,call\n".repeat(1025)));
    assert!(matches!(spec.dataset(&rows, Misfit::Void), Err(DataError::Limit { .. })));
    let [images, ..] = &specs()[..] else { panic!("four") };
    assert!(images.check_bound(u32::MAX).is_ok());
}
