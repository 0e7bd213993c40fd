//! From a model to the steps that run it: what is fused, what is no step at all, which way values and gradients go.

use crate::{
    LayerKind, ModelSpec,
    layers::{self, Layer, Place},
    network::ParameterEntry,
};

/// The steps of a model, in the order of its layers.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) steps: Vec<Step>,
    pub(super) table: Vec<ParameterEntry>,
    /// The longest gradient that is first written aside and then added.
    pub(super) aside_len: usize,
}

/// One layer, or a layer and the one that reads it.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) layer: Box<dyn Layer>,
    /// The specification's layer that names this step.
    pub(super) index: usize,
    /// The layers it runs, for a person.
    pub(super) label: String,
    /// Where its parameters lie.
    pub(super) offset: usize,
    pub(super) inputs: Vec<Input>,
    /// Where the ids lie in a record that mask its time steps: start and length.
    pub(super) mask: Option<(usize, usize)>,
    /// Whether it or anything before it has parameters.
    pub(super) is_trained: bool,
}

/// One input of a step.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) source: Source,
    /// Values of one record's input.
    pub(super) len: usize,
    pub(super) way_back: WayBack,
}

/// Where values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The record itself.
    Record,
    /// What a step puts out.
    Step(usize),
}

/// What happens to the gradient with respect to an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WayBack {
    /// Nobody needs it.
    Ends,
    /// It is the first to reach its source on the way back.
    Writes,
    /// It is added to what later readers of the same source have sent.
    Adds,
}

impl Step {
    /// Where its parameters lie in the flat vector.
    pub(super) fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.layer.n_parameters()
    }
}

/// Compiles `spec`, its last layer replaced by `last`.
pub(super) fn compile(spec: &ModelSpec, last: &LayerKind) -> Compiled {
    let layers = spec.layers();
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); layers.len()];
    for (i, layer) in layers.iter().enumerate() {
        for &input in &layer.inputs {
            readers[input as usize].push(i);
        }
    }
    let (mut steps, mut table): (Vec<Step>, Vec<ParameterEntry>) = (Vec::new(), Vec::new());
    let mut offset = 0;
    // Where the output of each layer so far is found; a layer that runs within an earlier step is there already.
    let mut sources: Vec<Option<Source>> = vec![None; layers.len()];
    for (index, layer) in layers.iter().enumerate() {
        let step_offset = offset;
        for (variable, shape) in spec.parameter_shapes(index) {
            let entry = ParameterEntry { name: format!("{}/{variable}", layer.name), shape, offset };
            offset += entry.len();
            table.push(entry);
        }
        if sources[index].is_some() {
            continue;
        }
        let kind = if index + 1 == layers.len() { last } else { &layer.kind };
        let reader = match readers[index][..] {
            [reader] => Some(reader),
            _ => None,
        };
        let inputs: Vec<&[usize]> = layer.inputs.iter().map(|&input| &*spec.shapes()[input as usize]).collect();
        let place = Place {
            index,
            inputs: &inputs,
            range: spec.record_range(index).filter(|range| range.len() < spec.record_len()),
            record_len: spec.record_len(),
            reader: reader.map(|reader| &layers[reader].kind),
        };
        let mut sources_in = layer.inputs.iter().map(|&input| sources[input as usize].unwrap_or(Source::Record));
        let Some((built, is_fused)) = layers::build(kind, place) else {
            sources[index] = Some(sources_in.next().unwrap_or(Source::Record));
            continue;
        };
        let mut inputs: Vec<Input> = sources_in
            .zip(&inputs)
            .map(|(source, shape)| Input { source, len: shape.iter().product(), way_back: WayBack::Ends })
            .collect();
        if inputs.is_empty() {
            inputs.push(Input { source: Source::Record, len: spec.record_len(), way_back: WayBack::Ends });
        }
        let source = Some(Source::Step(steps.len()));
        sources[index] = source;
        let mut label = layer.name.clone();
        if let (true, Some(reader)) = (is_fused, reader) {
            sources[reader] = source;
            label = format!("{label} + {}", layers[reader].name);
        }
        let trains = |input: &Input| matches!(input.source, Source::Step(step) if steps[step].is_trained);
        let is_trained = built.n_parameters() > 0 || inputs.iter().any(trains);
        let mask = spec.mask_of_input(index).and_then(|input| spec.record_range(input));
        let mask = mask.map(|range| (range.start, range.len()));
        steps.push(Step { layer: built, index, label, offset: step_offset, inputs, mask, is_trained });
    }
    let aside_len = plan_the_way_back(&mut steps);
    Compiled { steps, table, aside_len }
}

/// Decides for each input where its gradient goes; gives the longest that has to be added.
fn plan_the_way_back(steps: &mut [Step]) -> usize {
    let is_trained: Vec<bool> = steps.iter().map(|step| step.is_trained).collect();
    let mut is_reached = vec![false; steps.len()];
    let mut aside_len = 0;
    for step in steps.iter_mut().rev() {
        for input in &mut step.inputs {
            let Source::Step(source) = input.source else { continue };
            if !is_trained[source] {
                continue;
            }
            input.way_back = if is_reached[source] { WayBack::Adds } else { WayBack::Writes };
            if is_reached[source] {
                aside_len = aside_len.max(input.len);
            }
            is_reached[source] = true;
        }
    }
    aside_len
}
