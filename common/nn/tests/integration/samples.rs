//! The samples of the repository, read, made into data sets, and split among their natural clients.

use std::path::PathBuf;

use eranos_nn::data::{
    DataError, Dataset, Format, Schema, Standardization, Table, idx,
    schema::{Input, Label},
    split::{Split, by_key, group},
    text::{Side, Tokenizer, TokenizerSettings},
};

fn sample(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../samples").join(name)
}

fn counts(labels: &[u32]) -> Vec<usize> {
    by_key(labels).into_values().map(|records| records.len()).collect()
}

fn watch() -> (Dataset, Vec<u8>) {
    let (windows, labels) = (sample("watch-windows-idx3-ubyte.gz"), sample("watch-labels-idx1-ubyte.gz"));
    let data = idx::read_records(&windows, &labels, 7).expect("windows");
    (data, idx::read_column(&sample("watch-subjects-idx1-ubyte.gz")).expect("subjects"))
}

fn messages() -> Table {
    Table::read(&sample("sms-spam.tsv.gz"), Format::Tsv, Some(&["label", "text"])).expect("messages")
}

fn ratings() -> Table {
    let path = sample("movielens-sample.csv.gz");
    Table::read(&path, Format::of(&path).expect("csv"), None).expect("ratings")
}

fn owned(values: &[&str]) -> Vec<String> {
    values.iter().map(|&value| value.to_owned()).collect()
}

#[test]
fn the_watch_has_ten_people_who_do_seven_exercises() {
    let (data, subjects) = watch();
    assert_eq!((data.len(), data.shape(), subjects.len()), (1149, &[40, 6][..], 1149));
    assert_eq!((counts(data.labels()).len(), by_key(&subjects).len()), (7, 10));
    assert!(matches!(
        idx::read_records(&sample("watch-windows-idx3-ubyte.gz"), &sample("watch-labels-idx1-ubyte.gz"), 6),
        Err(DataError::Label { found: 6, n_classes: 6, .. })
    ));

    let Split { train, test } = Split::hold_out(&subjects, &[9, 10]);
    assert_eq!(train.len() + test.len(), 1149);
    assert!(test.iter().all(|&i| subjects[i] >= 9) && train.iter().all(|&i| subjects[i] < 9));
    let (mut train, mut test) = (data.subset(&train), data.subset(&test));
    let constants = Standardization::fit(&train).expect("constants");
    let raw = test.record(0).to_vec();
    constants.apply(&mut train).expect("6 channels");
    constants.apply(&mut test).expect("6 channels");
    let standard = Standardization::fit(&train).expect("constants");
    for (channel, &raw) in raw[..6].iter().enumerate() {
        let (mean, std) = (standard.mean()[channel], standard.std()[channel]);
        assert!(mean.abs() < 1e-5 && (std - 1.0).abs() < 1e-5, "channel {channel}: {mean} {std}");
        let expected = (raw - constants.mean()[channel]) / constants.std()[channel];
        assert_eq!(test.record(0)[channel], expected, "the other part takes the same constants");
    }
    let of_test = Standardization::fit(&test).expect("constants");
    assert!(of_test.mean().iter().any(|mean| mean.abs() > 0.01), "{of_test:?}");
}

#[test]
fn the_messages_become_numbers_of_words() {
    let table = messages();
    assert_eq!(table.n_rows(), 5574);
    let Split { train, test } = Split::every_nth(table.n_rows(), 5);
    assert_eq!((train.len(), test.len(), test[0], test[1]), (4460, 1114, 4, 9));
    let texts: Vec<&str> = table.column("text").expect("text").cells().collect();
    let settings = TokenizerSettings {
        num_words: 2000.try_into().ok(),
        oov_token: Some("<OOV>".to_owned()),
        ..Default::default()
    };
    let tokenizer = Tokenizer::fit(settings, train.iter().map(|&i| texts[i])).expect("words");
    let input = Input::Text {
        column: "text".to_owned(),
        tokenizer: tokenizer.without_unused_words(),
        maxlen: 40,
        padding: Side::Pre,
        truncating: Side::Post,
    };
    let label = |values: &[&str]| Label::Listed { column: "label".to_owned(), values: owned(values) };
    let schema = Schema::new(vec![input.clone()], label(&["ham", "spam"])).expect("schema");
    let data = schema.dataset(&table).expect("data");
    assert_eq!((data.len(), data.shape(), counts(data.labels())), (5574, &[40][..], vec![4827, 747]));
    assert_eq!((tokenizer.n_ids(), schema.n_classes()), (2000, 2));
    assert!(data.features().iter().all(|&id| id.fract() == 0.0 && (0.0..2000.0).contains(&id)));
    for (i, text) in texts.iter().enumerate() {
        let sequence = tokenizer.sequence(text);
        let kept = &sequence[..sequence.len().min(40)];
        let (filled, words) = data.record(i).split_at(40 - kept.len());
        assert!(filled.iter().all(|&id| id == 0.0) && words.iter().zip(kept).all(|(&id, &n)| id == n as f32), "{text}");
    }

    let error = Schema::new(vec![input], label(&["ham", "eggs"])).expect("schema").dataset(&table).expect_err("spam");
    let shown = error.user_error().to_string();
    assert!(shown.contains("sms-spam.tsv.gz, line 3: column \"label\" holds \"spam\""), "{shown}");
}

#[test]
fn the_ratings_become_two_ids_and_whether_a_user_liked_the_item() {
    let table = ratings();
    let column = |name: &str| table.column(name).expect("column");
    let (users, items) = (column("user").distinct(), column("item").distinct());
    assert_eq!((table.n_rows(), users.len(), items.len()), (43_571, 530, 500));
    let listed = |column: &str, values: &[&str]| Input::Listed { column: column.to_owned(), values: owned(values) };
    let label = Label::AtLeast { column: "rating".to_owned(), threshold: 4.0 };
    let schema = Schema::new(vec![listed("user", &users), listed("item", &items)], label.clone()).expect("schema");
    let data = schema.dataset(&table).expect("data");
    assert_eq!((data.len(), data.shape()), (43_571, &[2][..]));
    let numbers = column("rating").numbers().expect("ratings");
    for (i, row) in (0..table.n_rows()).map(|i| (i, table.row(i).collect::<Vec<_>>())) {
        let &[user, item] = data.record(i) else { panic!("two ids") };
        assert_eq!((users[user as usize], items[item as usize]), (row[0], row[1]), "row {i}");
        assert_eq!(data.label(i) == 1, numbers[i] >= 4.0, "row {i}");
    }

    // The last fifth of each user: in the file's order, which is that of time.
    let keys: Vec<&str> = column("user").cells().collect();
    let Split { train, test } = Split::last_of_each(&keys, 5);
    let expected: usize = by_key(&keys).values().map(|records| records.len() / 5).sum();
    assert_eq!((train.len() + test.len(), test.len()), (43_571, expected));
    for records in by_key(&keys).into_values() {
        let n_test = records.len() / 5;
        assert!(records[records.len() - n_test..].iter().all(|i| test.binary_search(i).is_ok()));
        assert!(records[..records.len() - n_test].iter().all(|i| train.binary_search(i).is_ok()));
    }

    // A user's ratings stay together, whichever organisation the user is dealt to.
    let groups = group(&keys, 7, 3);
    assert_eq!(groups, group(&keys, 7, 3), "the same seed, the same organisations");
    assert_ne!(groups, group(&keys, 7, 4));
    let mut all = groups.concat();
    all.sort_unstable();
    assert!(all.into_iter().eq(0..43_571));
    let mut n_users = 0;
    for records in &groups {
        let of_group: std::collections::BTreeSet<&str> = records.iter().map(|&i| keys[i]).collect();
        assert!((530 / 7..=530 / 7 + 1).contains(&of_group.len()), "{}", of_group.len());
        n_users += of_group.len();
    }
    assert_eq!(n_users, 530, "no user is at two organisations");

    // Ids that stand for themselves need no list, if they are small.
    let integer = Input::Integer { column: "user".to_owned(), n_ids: 672 };
    let data = Schema::new(vec![integer], label).expect("schema").dataset(&table).expect("data");
    assert_eq!(data.record(0), [2.0]);
}

#[test]
fn a_channel_that_cannot_be_standardised_is_named() {
    let data = |values: Vec<f32>, shape: &[usize]| {
        let (n_values, record_len) = (values.len(), shape.iter().product::<usize>());
        let features = ndarray::Array2::from_shape_vec((n_values / record_len, record_len), values).expect("shape");
        let labels = vec![0; features.nrows()];
        Dataset::new(features, labels, shape)
    };
    let fit = |values: Vec<f32>, shape: &[usize]| Standardization::fit(&data(values, shape));
    let constants = fit(vec![1.0, 10.0, 3.0, 30.0, 5.0, 20.0, 7.0, 20.0], &[2, 2]).expect("constants");
    assert_eq!((constants.mean(), constants.std()), (&[4.0, 20.0][..], &[5.0_f32.sqrt(), 50.0_f32.sqrt()][..]));
    let error = |values, shape: &[usize]| fit(values, shape).expect_err("refused").user_error().to_string();
    assert!(error(vec![1.0, 0.1, 2.0, 0.1, 3.0, 0.1], &[2]).contains("channel 1 has no two different values"));
    assert!(error(vec![1.0, 2.0, f32::NAN, 4.0], &[2]).contains("channel 0 has a value that is not finite"));
    assert!(error(vec![], &[2]).contains("channel 0 has no two"));
    for (mean, std) in [
        (vec![], vec![]),
        (vec![0.0], vec![1.0, 1.0]),
        (vec![f32::NAN], vec![1.0]),
        (vec![0.0], vec![0.0]),
        (vec![0.0], vec![-1.0]),
        (vec![0.0], vec![f32::INFINITY]),
    ] {
        assert!(Standardization::new(mean.clone(), std.clone()).is_err(), "{mean:?} {std:?}");
    }
    let other = constants.apply(&mut data(vec![1.0; 3], &[3])).expect_err("3 channels");
    assert!(matches!(other, DataError::Channels { found: 3, expected: 2 }));
}

#[test]
fn a_schema_that_is_none_is_refused() {
    let integer = |n_ids| Input::Integer { column: "a".to_owned(), n_ids };
    let label = Label::AtLeast { column: "a".to_owned(), threshold: 0.0 };
    let refused =
        |inputs: Vec<Input>, label: &Label| matches!(Schema::new(inputs, label.clone()), Err(DataError::Schema { .. }));
    assert!(!refused(vec![integer(1)], &label));
    assert!(refused(vec![], &label));
    assert!(refused(vec![integer(0)], &label));
    assert!(refused(vec![integer(u32::MAX)], &label));
    assert!(refused(vec![Input::Numbers { columns: vec![] }], &label));
    let listed = |values: &[&str]| Input::Listed { column: "a".to_owned(), values: owned(values) };
    assert!(refused(vec![listed(&["x", "x"])], &label));
    assert!(refused(vec![listed(&[])], &label));
    for (maxlen, n) in [(usize::MAX, 2), (0, 1)] {
        let (tokenizer, padding) = (Tokenizer::fit(TokenizerSettings::default(), ["x"]).expect("words"), Side::Pre);
        let text = Input::Text { column: "a".to_owned(), tokenizer, maxlen, padding, truncating: padding };
        assert!(refused(vec![text; n], &label), "{maxlen}");
    }
    assert!(refused(vec![integer(1)], &Label::AtLeast { column: "a".to_owned(), threshold: f64::NAN }));
    assert!(refused(vec![integer(1)], &Label::Listed { column: "a".to_owned(), values: owned(&["x", "x"]) }));
    assert!(refused(vec![integer(1)], &Label::Integer { column: "a".to_owned(), n_classes: 0 }));

    let table =
        Table::parse(&b"a,b\n1,0.5\n0,1e39\n"[..], std::path::Path::new("t"), Format::Csv, None).expect("table");
    let numbers = |columns: &[&str]| {
        let schema = Schema::new(vec![integer(2), Input::Numbers { columns: owned(columns) }], label.clone());
        schema.expect("schema").dataset(&table)
    };
    let data = numbers(&["a", "a"]).expect("data");
    assert_eq!((data.record(0), data.record(1), data.labels()), (&[1.0; 3][..], &[0.0; 3][..], &[1, 1][..]));
    assert!(matches!(numbers(&["b"]), Err(DataError::Line { line: 3, .. })), "1e39 is no f32");
    assert!(matches!(numbers(&["c"]), Err(DataError::Column { .. })));
}
