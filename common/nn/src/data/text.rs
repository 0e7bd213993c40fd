//! Text as numbers, as Keras' `Tokenizer` and `pad_sequences` make it, so that a model trained there reads the same here.
//!
//! What differs is refused, never done in another way. A vocabulary speaks about the texts it was fitted on: fit it on
//! public text, and let only [`Tokenizer::without_unused_words`] travel.

use std::{collections::HashMap, num::NonZeroU32};

use ndarray::Array2;

use super::{DataError, VALUES_MAX};

/// Most words of a vocabulary.
pub const WORDS_MAX: usize = 1 << 20;
/// Most bytes of all words of a vocabulary together.
pub const VOCABULARY_LEN_MAX: usize = 1 << 24;
/// What Keras takes out of texts unless it is told otherwise: punctuation without the apostrophe, tabs and line feeds.
pub const FILTERS: &str = "!\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n";

/// How texts become words, with Keras' names and defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerSettings {
    /// Only words whose number is below it are kept, the most frequent ones; all if none.
    pub num_words: Option<NonZeroU32>,
    /// Stands for every word that is not kept, with number 1; such words are left out if there is none.
    pub oov_token: Option<String>,
    /// Characters that part words, beside the space.
    pub filters: String,
    /// Whether texts become lower case first.
    pub lower: bool,
    /// Whether each character is a word. Nothing is filtered then.
    pub char_level: bool,
}

impl Default for TokenizerSettings {
    fn default() -> Self {
        Self { num_words: None, oov_token: None, filters: FILTERS.to_owned(), lower: true, char_level: false }
    }
}

/// Numbers for words: 1 for the most frequent one, or for the `oov_token` if there is one. Number 0 stands for no word,
/// it is what [`pad_sequences`] fills with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokenizer {
    settings: TokenizerSettings,
    words: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Tokenizer {
    /// A tokenizer with these words, the most frequent one first, the `oov_token` left out.
    ///
    /// # Errors
    /// If a word stands there twice or is the `oov_token`, or a limit is exceeded.
    pub fn new(settings: TokenizerSettings, words: Vec<String>) -> Result<Self, DataError> {
        let fault = |problem: String| DataError::Vocabulary { problem };
        limit("words", words.len(), WORDS_MAX)?;
        limit("bytes", words.iter().map(String::len).sum(), VOCABULARY_LEN_MAX)?;
        let first = if settings.oov_token.is_some() { 2 } else { 1 };
        let mut numbers = HashMap::with_capacity(words.len());
        for (number, word) in (first..).zip(&words) {
            if settings.oov_token.as_ref() == Some(word) {
                // Keras gives it the other word's number then, which may exceed num_words.
                return Err(fault(format!("its oov_token {word:?} is also a word of the texts")));
            }
            if numbers.insert(word.clone(), number).is_some() {
                return Err(fault(format!("the word {word:?} twice")));
            }
        }
        Ok(Self { settings, words, numbers })
    }

    /// A tokenizer with the words of `texts`: the most frequent one first, among equals the one that was seen first.
    ///
    /// # Errors
    /// As [`Tokenizer::new`].
    pub fn fit<'a>(settings: TokenizerSettings, texts: impl IntoIterator<Item = &'a str>) -> Result<Self, DataError> {
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut counts: Vec<(String, u64)> = Vec::new();
        for text in texts {
            settings.for_each_word(text, |word| match places.get(word) {
                Some(&place) => counts[place].1 += 1,
                None => {
                    places.insert(word.to_owned(), counts.len());
                    counts.push((word.to_owned(), 1));
                }
            });
            // Here, so that what is held meanwhile has a bound as well.
            limit("words", counts.len(), WORDS_MAX)?;
        }
        // A stable sort keeps the order in which equally frequent words were seen.
        counts.sort_by(|(_, a), (_, b)| b.cmp(a));
        Self::new(settings, counts.into_iter().map(|(word, _)| word).collect())
    }

    /// How texts become words.
    pub fn settings(&self) -> &TokenizerSettings {
        &self.settings
    }

    /// The words, the most frequent one first, the `oov_token` left out.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The number of a word, whether or not it is below `num_words`: Keras' `word_index`.
    pub fn number(&self, word: &str) -> Option<u32> {
        if self.settings.oov_token.as_deref() == Some(word) { Some(OOV) } else { self.numbers.get(word).copied() }
    }

    /// One more than the largest number that a text may become: the `input_dim` of an embedding.
    pub fn n_ids(&self) -> u32 {
        let n_words = self.words.len() as u32 + u32::from(self.settings.oov_token.is_some()) + 1;
        // The oov_token itself is not subject to num_words.
        let least = if self.settings.oov_token.is_some() { OOV + 1 } else { 1 };
        self.settings.num_words.map_or(n_words, |limit| n_words.min(limit.get().max(least)))
    }

    /// The numbers of a text's words: one row of Keras' `texts_to_sequences`.
    pub fn sequence(&self, text: &str) -> Vec<u32> {
        let limit = self.settings.num_words.map_or(u32::MAX, NonZeroU32::get);
        let mut sequence = Vec::new();
        self.settings.for_each_word(text, |word| match self.number(word) {
            Some(number) if number < limit => sequence.push(number),
            _ => sequence.extend(self.settings.oov_token.as_ref().map(|_| OOV)),
        });
        sequence
    }

    /// The same tokenizer without the words that no text ever becomes: rare words are often names and numbers of people,
    /// and have no reason to travel.
    #[must_use]
    pub fn without_unused_words(&self) -> Self {
        let limit = self.settings.num_words.map_or(u32::MAX, NonZeroU32::get);
        let used = |word: &String| self.numbers.get(word).is_some_and(|&number| number < limit);
        let words: Vec<String> = self.words.iter().filter(|&word| used(word)).cloned().collect();
        let numbers = words.iter().filter_map(|word| self.numbers.get_key_value(word)).map(|(w, &n)| (w.clone(), n));
        Self { settings: self.settings.clone(), numbers: numbers.collect(), words }
    }
}

impl TokenizerSettings {
    fn for_each_word(&self, text: &str, mut visit: impl FnMut(&str)) {
        let lowered;
        let text = if self.lower {
            lowered = text.to_lowercase();
            &lowered
        } else {
            text
        };
        if self.char_level {
            let mut buffer = [0; 4];
            text.chars().for_each(|character| visit(character.encode_utf8(&mut buffer)));
        } else {
            let words = text.split(|c: char| c == ' ' || self.filters.contains(c));
            words.filter(|word| !word.is_empty()).for_each(visit);
        }
    }
}

/// An end of a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// Before the first value: Keras' `pre`, its default.
    #[default]
    Pre,
    /// After the last value: Keras' `post`.
    Post,
}

/// How sequences come to one length, with Keras' names and defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PadSettings {
    /// The length; that of the longest sequence if none.
    pub maxlen: Option<usize>,
    /// Where a short sequence is filled.
    pub padding: Side,
    /// Where a long sequence is cut.
    pub truncating: Side,
    /// What is filled in.
    pub value: u32,
}

/// Sequences of one length, `[n_sequences, maxlen]`: short ones are filled, long ones are cut.
///
/// # Errors
/// If there would be more than [`VALUES_MAX`] values.
pub fn pad_sequences(sequences: &[Vec<u32>], settings: PadSettings) -> Result<Array2<u32>, DataError> {
    let PadSettings { maxlen, padding, truncating, value } = settings;
    let maxlen = maxlen.unwrap_or_else(|| sequences.iter().map(Vec::len).max().unwrap_or(0));
    let n_values = (sequences.len() as u64).saturating_mul(maxlen as u64);
    if n_values > VALUES_MAX || maxlen as u64 > VALUES_MAX {
        return Err(DataError::Padding { n_sequences: sequences.len(), maxlen });
    }
    let mut out = Array2::from_elem((sequences.len(), maxlen), value);
    for (mut row, sequence) in out.outer_iter_mut().zip(sequences) {
        let n_kept = sequence.len().min(maxlen);
        let kept = match truncating {
            Side::Pre => &sequence[sequence.len() - n_kept..],
            Side::Post => &sequence[..n_kept],
        };
        let start = match padding {
            Side::Pre => maxlen - n_kept,
            Side::Post => 0,
        };
        for (to, &from) in row.iter_mut().skip(start).zip(kept) {
            *to = from;
        }
    }
    Ok(out)
}

fn limit(what: &str, found: usize, max: usize) -> Result<(), DataError> {
    if found > max { Err(DataError::Vocabulary { problem: format!("{found} {what}, limit {max}") }) } else { Ok(()) }
}

/// The number of the `oov_token`.
const OOV: u32 = 1;
