//! The models that come with the crate, as Keras prints them, and fitted to a task's data.

use super::{Activation, LayerKind, ModelError, ModelSpec};
use crate::data::{DataSpec, schema};

/// The names of the models that come with the crate.
pub const BUILTIN_NAMES: &[&str] = &["cnn", "lstm", "nlp", "recommender"];

impl ModelSpec {
    /// A model that comes with the crate, of the sizes that it was printed with.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn builtin(name: &str) -> Result<Self, ModelError> {
        match name {
            "cnn" => Self::from_keras_json(include_str!("cnn.json")),
            "lstm" => Self::from_keras_json(include_str!("lstm.json")),
            "nlp" => Self::from_keras_json(include_str!("nlp.json")),
            "recommender" => Self::from_keras_json(include_str!("recommender.json")),
            _ => Err(ModelError::UnknownBuiltin { name: name.to_owned() }),
        }
    }

    /// The same, its inputs, embeddings and outputs of the sizes that `data` calls for.
    ///
    /// # Errors
    /// If there is none of this name, or it does not take such data.
    pub fn builtin_for(name: &str, data: &DataSpec) -> Result<Self, ModelError> {
        let builtin = Self::builtin(name)?;
        let inputs: Vec<(Vec<u32>, Option<u32>)> = match data {
            DataSpec::Images { shape, .. } => vec![(shape.to_vec(), None)],
            DataSpec::Series { steps, standardization, .. } => {
                vec![(vec![*steps, standardization.mean().len() as u32], None)]
            }
            DataSpec::Table(schema) => {
                let size = |input: &schema::Input| (vec![input.len() as u32], input.n_ids());
                schema.inputs().iter().map(size).collect()
            }
        };
        let mut layers = builtin.layers().to_vec();
        let mut shapes = inputs.iter().map(|(shape, _)| shape);
        let mut ids = inputs.iter().filter_map(|(_, n_ids)| *n_ids);
        for layer in &mut layers {
            match &mut layer.kind {
                LayerKind::InputLayer { shape } => {
                    if let Some(fitted) = shapes.next() {
                        shape.clone_from(fitted);
                    }
                }
                LayerKind::Embedding { input_dim, .. } => {
                    if let Some(n_ids) = ids.next() {
                        *input_dim = n_ids;
                    }
                }
                _ => {}
            }
        }
        if let Some(LayerKind::Dense { units, activation: Activation::Softmax, .. }) =
            layers.last_mut().map(|layer| &mut layer.kind)
        {
            *units = data.n_classes();
        }
        let spec = Self::new(builtin.name(), layers)?;
        spec.check_data(data)?;
        Ok(spec)
    }

    /// Checks that the model takes the records of `data` and tells their classes apart.
    ///
    /// # Errors
    /// Says what does not fit.
    pub fn check_data(&self, data: &DataSpec) -> Result<(), ModelError> {
        if self.record_len() != data.record_len() {
            let (takes, has) = (self.record_len(), data.record_len());
            return Err(ModelError::Data { problem: format!("takes records of {takes} values, the data has {has}") });
        }
        let n_outputs: usize = self.output_shape().iter().product();
        // One output tells two classes apart.
        let n_classes = if n_outputs == 1 { 2 } else { n_outputs };
        if n_classes != data.n_classes() as usize {
            let problem = format!("has {n_outputs} outputs, the data has {} classes", data.n_classes());
            return Err(ModelError::Data { problem });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{
        Schema,
        schema::{Input, Label},
    };

    fn ids(column: &str, n_ids: u32) -> Input {
        Input::Integer { column: column.to_owned(), n_ids }
    }

    #[test]
    fn a_builtin_fitted_to_the_sizes_it_was_printed_with_is_itself() {
        let images = DataSpec::Images { shape: [28, 28, 1], n_classes: 10 };
        assert_eq!(ModelSpec::builtin_for("cnn", &images), ModelSpec::builtin("cnn"));
        let label = Label::AtLeast { column: "rating".to_owned(), threshold: 4.0 };
        let ratings = Schema::new(vec![ids("user", 943), ids("item", 1682)], label).expect("schema");
        let fitted = ModelSpec::builtin_for("recommender", &DataSpec::Table(ratings));
        assert_eq!(fitted, ModelSpec::builtin("recommender"));
    }

    #[test]
    fn a_builtin_takes_the_sizes_of_the_data_or_is_refused() {
        let standardization = crate::data::Standardization::new(vec![0.0; 6], vec![1.0; 6]).expect("constants");
        let series = DataSpec::Series { steps: 40, standardization, n_classes: 7 };
        let lstm = ModelSpec::builtin_for("lstm", &series).expect("fits");
        assert_eq!((lstm.record_len(), lstm.output_shape()), (240, &[7][..]));
        assert!(ModelSpec::builtin_for("recommender", &series).is_err());
        assert!(ModelSpec::builtin_for("cnn", &series).is_err());
        let label = Label::Integer { column: "class".to_owned(), n_classes: 3 };
        let three = DataSpec::Table(Schema::new(vec![ids("user", 9), ids("item", 9)], label).expect("schema"));
        let refused = ModelSpec::builtin_for("recommender", &three).expect_err("one output is two classes");
        assert!(refused.to_string().contains("3 classes"), "{refused}");
    }
}
