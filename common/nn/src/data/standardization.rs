//! Channels brought to mean 0 and standard deviation 1.
//!
//! The constants are fitted on one part and applied everywhere, at every client alike: they are part of the task, and
//! public. Fit them on public data, or agree on them from what the sensor's range is.

use super::{DataError, Dataset};

/// Most channels.
pub const CHANNELS_MAX: usize = 1 << 16;

/// The mean and standard deviation of each channel, the last axis of a record: `x` becomes `(x - mean) / std`.
#[derive(Clone, Debug, PartialEq)]
pub struct Standardization {
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl Standardization {
    /// These constants, one of each a channel.
    ///
    /// # Errors
    /// If there are none, too many, or not equally many, a mean is not finite, or a deviation is not a normal positive
    /// number.
    pub fn new(mean: Vec<f32>, std: Vec<f32>) -> Result<Self, DataError> {
        let fault = |channel, problem| Err(DataError::Channel { channel, problem });
        if mean.is_empty() || mean.len() != std.len() || mean.len() > CHANNELS_MAX {
            return Err(DataError::Channels { found: mean.len(), expected: std.len().clamp(1, CHANNELS_MAX) });
        }
        if let Some(channel) = mean.iter().position(|mean| !mean.is_finite()) {
            return fault(channel, "a mean that is not finite");
        }
        if let Some(channel) = std.iter().position(|&std| !(std.is_normal() && std > 0.0)) {
            return fault(channel, "a standard deviation that is not a positive number");
        }
        Ok(Self { mean, std })
    }

    /// The constants of `data`: each channel's mean and population standard deviation, summed in f64 in the order of the
    /// records.
    ///
    /// # Errors
    /// If there are no values, a value is not finite, or a channel has the same value everywhere: such a channel says
    /// nothing, and nothing can be divided by its deviation. Leave it out, or give constants of your own.
    pub fn fit(data: &Dataset) -> Result<Self, DataError> {
        let n_channels = n_channels(data);
        if n_channels == 0 || n_channels > CHANNELS_MAX {
            return Err(DataError::Channels { found: n_channels, expected: n_channels.clamp(1, CHANNELS_MAX) });
        }
        // The values of all channels at one step of one record, as they lie in memory.
        let steps = || (0..data.len()).flat_map(|i| data.record(i).chunks_exact(n_channels));
        let mut sums = vec![0.0; n_channels];
        let mut ranges = vec![(f32::INFINITY, f32::NEG_INFINITY); n_channels];
        for step in steps() {
            for (channel, &value) in step.iter().enumerate() {
                if !value.is_finite() {
                    return Err(DataError::Channel { channel, problem: "a value that is not finite" });
                }
                sums[channel] += f64::from(value);
                let (least, most) = ranges[channel];
                ranges[channel] = (least.min(value), most.max(value));
            }
        }
        // Not told by the deviation, which rounding keeps from zero where there are very many values.
        if let Some(channel) = ranges.iter().position(|(least, most)| least >= most) {
            return Err(DataError::Channel { channel, problem: "no two different values" });
        }
        let n = steps().count() as f64;
        let mean: Vec<f64> = sums.into_iter().map(|sum| sum / n).collect();
        let mut squares = vec![0.0; n_channels];
        for step in steps() {
            for ((square, mean), &value) in squares.iter_mut().zip(&mean).zip(step) {
                *square += (f64::from(value) - mean).powi(2);
            }
        }
        let std = squares.into_iter().map(|square| (square / n).sqrt() as f32).collect();
        Self::new(mean.into_iter().map(|mean| mean as f32).collect(), std)
    }

    /// Each channel's mean.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// Each channel's standard deviation.
    pub fn std(&self) -> &[f32] {
        &self.std
    }

    /// Standardises `data`.
    ///
    /// # Errors
    /// If its records have another number of channels.
    pub fn apply(&self, data: &mut Dataset) -> Result<(), DataError> {
        let n_channels = n_channels(data);
        if n_channels != self.mean.len() {
            return Err(DataError::Channels { found: n_channels, expected: self.mean.len() });
        }
        for mut record in data.features.outer_iter_mut() {
            for (i, value) in record.iter_mut().enumerate() {
                let channel = i % n_channels;
                *value = (*value - self.mean[channel]) / self.std[channel];
            }
        }
        Ok(())
    }
}

/// The length of a record's last axis.
fn n_channels(data: &Dataset) -> usize {
    data.shape().last().copied().unwrap_or(1)
}
