//! Tokenizer and padding against what Keras made of real texts: `ERANOS_TEXT_VECTORS` names the folder, the crate's own
//! copy is the default.

use std::{collections::HashMap, fs, num::NonZeroU32, path::PathBuf};

use eranos_base::{Entropy, SeededEntropy};
use eranos_nn::data::{
    DataError,
    text::{PadSettings, Side, Tokenizer, TokenizerSettings, WORDS_MAX, pad_sequences},
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vectors {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    settings: Settings,
    fit: Vec<String>,
    word_index: HashMap<String, u32>,
    texts: Vec<String>,
    sequences: Vec<Vec<u32>>,
    padded: Vec<Padded>,
}

#[derive(Deserialize)]
struct Settings {
    num_words: Option<u32>,
    oov_token: Option<String>,
    lower: bool,
    split: String,
    char_level: bool,
    filters: String,
}

#[derive(Deserialize)]
struct Padded {
    maxlen: Option<usize>,
    padding: String,
    truncating: String,
    value: u32,
    output: Vec<Vec<u32>>,
}

#[test]
fn every_case_is_what_keras_made_of_it() {
    let folder = std::env::var_os("ERANOS_TEXT_VECTORS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors_text"), PathBuf::from);
    let path = folder.join("tokenizer.json");
    let json = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let vectors: Vectors = serde_json::from_str(&json).expect("vectors");
    assert!(!vectors.cases.is_empty());
    for (number, case) in vectors.cases.into_iter().enumerate() {
        check(&format!("case {number}"), case);
    }
}

fn check(name: &str, case: Case) {
    let Settings { num_words, oov_token, lower, split, char_level, filters } = case.settings;
    assert_eq!(split, " ", "{name}: words are parted by spaces here");
    let num_words = num_words.and_then(NonZeroU32::new);
    let settings = TokenizerSettings { num_words, oov_token, filters, lower, char_level };
    let fit = case.fit.iter().map(String::as_str);
    let tokenizer = Tokenizer::fit(settings.clone(), fit).unwrap_or_else(|e| panic!("{name}: {e}"));

    let words = settings.oov_token.iter().chain(tokenizer.words());
    let word_index: HashMap<String, u32> =
        words.map(|word| (word.clone(), tokenizer.number(word).expect("its own"))).collect();
    assert_eq!(word_index, case.word_index, "{name}");

    let few = tokenizer.without_unused_words();
    assert!(num_words.is_none_or(|limit| few.words().len() < limit.get() as usize), "{name}");
    let again = Tokenizer::new(settings, few.words().to_vec()).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(again, few, "{name}");
    for tokenizer in [tokenizer, few, again] {
        let sequences: Vec<Vec<u32>> = case.texts.iter().map(|text| tokenizer.sequence(text)).collect();
        assert_eq!(sequences, case.sequences, "{name}");
        assert!(sequences.iter().flatten().all(|&number| number < tokenizer.n_ids()), "{name}");
    }

    for Padded { maxlen, padding, truncating, value, output } in case.padded {
        let (padding, truncating) = (side(&padding), side(&truncating));
        let padded = pad_sequences(&case.sequences, PadSettings { maxlen, padding, truncating, value }).expect("small");
        let rows: Vec<Vec<u32>> = padded.outer_iter().map(|row| row.to_vec()).collect();
        assert_eq!(rows, output, "{name}: maxlen {maxlen:?}, {padding:?}, {truncating:?}, {value}");
    }
}

fn side(name: &str) -> Side {
    match name {
        "pre" => Side::Pre,
        "post" => Side::Post,
        other => panic!("{other}"),
    }
}

#[test]
fn a_vocabulary_that_is_none_is_refused() {
    let settings = |oov: Option<&str>| TokenizerSettings { oov_token: oov.map(str::to_owned), ..Default::default() };
    let error = |result: Result<Tokenizer, DataError>| match result.expect_err("refused") {
        error @ DataError::Vocabulary { .. } => error.user_error().to_string(),
        other => panic!("{other}"),
    };
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    assert!(error(Tokenizer::new(settings(None), words(&["a", "b", "a"]))).contains("\"a\" twice"));
    assert!(error(Tokenizer::new(settings(Some("b")), words(&["a", "b"]))).contains("oov_token"));
    assert!(error(Tokenizer::fit(settings(Some("b")), ["a b"])).contains("oov_token"));
    let many: Vec<String> = (0..=WORDS_MAX).map(|n| n.to_string()).collect();
    assert!(error(Tokenizer::new(settings(None), many.clone())).contains("limit"));
    assert!(error(Tokenizer::fit(settings(None), many.iter().map(String::as_str))).contains("limit"));
    assert!(error(Tokenizer::new(settings(None), vec!["x".repeat(1 << 25)])).contains("limit"));
    let huge = PadSettings { maxlen: Some(usize::MAX), ..Default::default() };
    for sequences in [vec![], vec![vec![]; 3]] {
        assert!(matches!(pad_sequences(&sequences, huge), Err(DataError::Padding { .. })));
    }
}

#[test]
fn ids_stay_below_their_number_for_random_settings() {
    let mut entropy = SeededEntropy::new(51);
    for round in 0..500 {
        let [num_words, oov, lower, char_level] = entropy.bytes();
        let settings = TokenizerSettings {
            num_words: NonZeroU32::new(u32::from(num_words % 8)),
            oov_token: (oov % 2 == 0).then(|| "<OOV>".to_owned()),
            lower: lower % 2 == 0,
            char_level: char_level % 4 == 0,
            ..Default::default()
        };
        let mut text = || {
            String::from_utf8_lossy(&entropy.bytes::<24>().map(|byte| b"aAbBcC .\t'"[usize::from(byte) % 10]))
                .into_owned()
        };
        let (seen, unseen) = (text(), text());
        let tokenizer = Tokenizer::fit(settings, [seen.as_str()]).expect("tokenizer");
        for text in [&seen, &unseen] {
            let sequence = tokenizer.sequence(text);
            assert!(sequence.iter().all(|id| (1..tokenizer.n_ids()).contains(id)), "seed 51, round {round}");
            assert_eq!(tokenizer.without_unused_words().sequence(text), sequence, "seed 51, round {round}");
            assert_eq!(tokenizer.without_unused_words().n_ids(), tokenizer.n_ids(), "seed 51, round {round}");
        }
    }
}
