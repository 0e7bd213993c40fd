//! What runs a model: forward, the exact gradient of one record, and evaluation.
//!
//! A network is compiled from a [`ModelSpec`] once: a convolution and the pooling after it become one step, `Flatten`
//! none at all, and the softmax or sigmoid at the end moves into the loss that belongs to it. Its parameters are one flat vector with a table of
//! (name, shape, offset) in Keras' order; gradients, moments and updates have the same layout, so that nothing is packed
//! before it is clipped, noised and masked.
//!
//! # The exact path
//! [`Network::record_gradient`] computes the gradient of one record from the model and that record alone. What makes it
//! so: no value of another record enters any of its sums; every sum is a chain of fused multiply-adds in an order that
//! depends on the model only; Dropout's mask is drawn from a key that belongs to the [`Record`]; there is no state in a
//! [`Workspace`] that outlives a call. It allocates nothing. Its time depends a little on the record: which position won
//! each pooling window and which rows of an embedding are looked up decides which addresses are read, and a masked time
//! step costs an LSTM nothing.
//!
//! [`Network::record_gradients`] takes records through a chunk at a time: what is multiplied with the same parameters is
//! multiplied together, row by row, and each record's gradient is then made from its own rows alone, so that it has
//! the same bits as by itself.
//!
//! # The fast path
//! [`batch`] computes the gradient of a batch, for training without a claim of privacy: the same steps, many records at
//! once.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use eranos_base::{Digest, Entropy};
use ndarray::{Array2, ArrayView2};

use crate::{
    Activation, Buffer, Dataset, Gradient, Loss, ModelSpec, NnError, Target,
    layers::{Backward, Forward, Layer, LayerParameters, Mask, N_RECORDS_MAX, Products, Scratch},
    training::Block,
};

pub mod batch;
mod compile;

use batch::Outcome;
use compile::{Compiled, Input, Source, Step, WayBack, compile};

/// A model ready to run. Shared freely between threads; each thread needs a [`Workspace`] of its own.
#[derive(Debug)]
pub struct Network {
    spec: ModelSpec,
    digest: Digest,
    loss: Loss,
    table: Vec<ParameterEntry>,
    steps: Vec<Step>,
    aside_len: usize,
    input_len: usize,
    n_outputs: usize,
    /// Records that go through the steps at once.
    chunk_len: usize,
}

/// Where a tensor lies in the flat parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterEntry {
    /// `layer/variable`, as Keras names it.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Where it begins in the flat vector.
    pub offset: usize,
}

/// One record as training sees it: all that its gradient depends on beside the model and the target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record<'a> {
    /// Its values: those of all the model's inputs, one input after the other in the order of the model's layers, each
    /// row-major. Ids are whole numbers.
    pub values: &'a [f32],
    /// What Dropout draws its mask from: fresh for each record and attempt. A model without Dropout needs none.
    pub dropout_key: Option<u64>,
}

impl<'a> Record<'a> {
    /// A record of a model without Dropout.
    pub const fn new(values: &'a [f32]) -> Self {
        Self { values, dropout_key: None }
    }
}

/// Parameters in the form that the layers read, made once per model and shared by all threads.
#[derive(Debug)]
pub struct Prepared {
    network: Digest,
    layers: Vec<LayerParameters>,
}

/// The memory of one worker, made once by [`Network::workspace`]. It carries nothing from one call to the next.
#[derive(Debug)]
pub struct Workspace {
    network: Digest,
    /// What each step puts out, for as many records as a chunk takes.
    outputs: Vec<Buffer>,
    /// The gradient with respect to each step's output.
    gradients: Vec<Buffer>,
    /// A gradient that is to be added to another.
    aside: Buffer,
    scratch: Vec<Scratch>,
    /// What the loss is computed from.
    logits: Buffer,
    /// What only a batch takes.
    batch: batch::Memory,
}

/// How well a model does on a data set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// How many records were seen.
    pub n_examples: usize,
    /// The mean loss, zero without records.
    pub loss: f64,
    /// The share of records whose class has the largest output, zero without records.
    pub accuracy: f64,
}

/// Where the time of a record's gradient goes, from [`Network::profile`].
#[derive(Clone, Debug)]
pub struct LayerTime {
    /// The layers that the step runs.
    pub layers: String,
    /// The mean time forward.
    pub forward: Duration,
    /// The mean time backward.
    pub backward: Duration,
}

impl Network {
    /// The network of `spec`, trained by `loss`.
    ///
    /// # Errors
    /// If the loss does not fit the model's last layer or the shape of its output.
    pub fn new(spec: ModelSpec, loss: Loss) -> Result<Self, NnError> {
        let last = &spec.layers()[spec.layers().len() - 1];
        let mut last_kind = last.kind.clone();
        if let Some((activation, name)) = loss.activation() {
            if last.kind.activation() != activation {
                return Err(NnError::Loss { loss: loss.name(), layer: last.name.clone(), activation: name });
            }
            // The activation at the end belongs to the loss.
            last_kind.replace_activation(Activation::Linear);
        }
        if loss.has_classes() && spec.output_shape().len() != 1 {
            return Err(NnError::OutputShape { shape: spec.output_shape().to_vec() });
        }
        let Compiled { steps, table, aside_len } = compile(&spec, &last_kind);
        let digest = spec.digest();
        let n_outputs = spec.output_shape().iter().product();
        let values: usize = steps.iter().map(Step::n_values).sum();
        let chunk_len = (CHUNK_VALUES / values.max(1)).clamp(1, N_RECORDS_MAX);
        Ok(Self { input_len: spec.record_len(), spec, digest, loss, table, steps, aside_len, n_outputs, chunk_len })
    }

    /// The model.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The loss.
    pub fn loss(&self) -> Loss {
        self.loss
    }

    /// How many parameters there are: the length of every flat vector.
    pub fn n_parameters(&self) -> usize {
        self.spec.n_parameters()
    }

    /// Where each tensor lies in the flat parameters, in Keras' order.
    pub fn parameters(&self) -> &[ParameterEntry] {
        &self.table
    }

    /// How many values a record has, all inputs together.
    pub fn input_len(&self) -> usize {
        self.input_len
    }

    /// How many values the model puts out for a record: its classes, where the loss knows classes.
    pub fn n_outputs(&self) -> usize {
        self.n_outputs
    }

    /// Whether records need a [`Record::dropout_key`].
    pub fn has_dropout(&self) -> bool {
        self.spec.has_dropout()
    }

    /// Fresh parameters by Keras' default initialisers: kernels Glorot uniform, recurrent kernels orthogonal, embeddings
    /// uniform in [-0.05, 0.05], biases zero but those of an LSTM's forget gate, which are one.
    pub fn initialise(&self, entropy: &mut dyn Entropy) -> Vec<f32> {
        let mut parameters = vec![0.0; self.n_parameters()];
        for step in &self.steps {
            step.layer.initialise(&mut parameters[step.range()], entropy);
        }
        parameters
    }

    /// Makes `parameters` ready for the layers: once per model, not per record.
    ///
    /// # Errors
    /// If there are not [`Network::n_parameters`] of them.
    pub fn prepare(&self, parameters: &[f32]) -> Result<Prepared, NnError> {
        expect_len("parameters", parameters.len(), self.n_parameters())?;
        let layers =
            self.steps.iter().map(|step| LayerParameters::new(&*step.layer, &parameters[step.range()])).collect();
        Ok(Prepared { network: self.digest, layers })
    }

    /// Makes `prepared` ready again after its parameters were changed in place.
    pub(crate) fn derive(&self, prepared: &mut Prepared) {
        for (step, layer) in self.steps.iter().zip(&mut prepared.layers) {
            layer.derive(&*step.layer);
        }
    }

    /// The parameters of `prepared` in blocks of at most `len`, to be changed in place, each with its part of both
    /// `moments`.
    pub(crate) fn blocks<'a>(
        &self,
        prepared: &'a mut Prepared,
        moments: [&'a mut [f32]; 2],
        len: usize,
    ) -> impl Iterator<Item = Block<'a>> {
        let [mut m, mut v] = moments;
        let layers = self.steps.iter().map(|step| step.offset).zip(&mut prepared.layers);
        let blocks = layers.flat_map(move |(offset, layer)| {
            layer.flat.chunks_mut(len).enumerate().map(move |(i, parameters)| (offset + i * len, parameters))
        });
        blocks.map(move |(at, parameters)| {
            let part = |moments: &mut &'a mut [f32]| {
                moments.split_off_mut(..parameters.len().min(moments.len())).unwrap_or_default()
            };
            let moments = [part(&mut m), part(&mut v)];
            Block { at, parameters, moments }
        })
    }

    /// Memory for a gradient.
    pub fn gradient(&self) -> Gradient {
        Gradient::zeroed(self.digest, self.n_parameters())
    }

    /// The memory of one worker.
    pub fn workspace(&self) -> Workspace {
        let n = self.chunk_len;
        let buffers = || self.steps.iter().map(|step| Buffer::zeroed(n * step.layer.output_len()));
        Workspace {
            network: self.digest,
            outputs: buffers().collect(),
            gradients: buffers().collect(),
            aside: Buffer::zeroed(n * self.aside_len),
            scratch: self.steps.iter().map(|step| Scratch::new(&*step.layer, n)).collect(),
            logits: Buffer::zeroed(n * self.n_outputs),
            batch: batch::Memory::default(),
        }
    }

    /// The exact path: writes the gradient of one record's loss to `out` and gives the loss.
    ///
    /// Both are functions of the parameters, the record with its key, and its target alone, bit for bit, whatever was computed before
    /// in the same workspace, on whatever thread and with whatever instruction set. Nothing of what `out` held before is left.
    ///
    /// Values that are not finite are not an error here: they show in the loss or in `out`, whose norm the caller
    /// computes in any case, and whose record then becomes zero by assignment. [`Network::check_record`] finds the layer
    /// they come from.
    ///
    /// # Errors
    /// If a slice has the wrong length, the target does not fit the loss, a key for Dropout is missing, or `prepared` or
    /// `workspace` is of another network.
    pub fn record_gradient(
        &self,
        prepared: &Prepared,
        record: Record<'_>,
        target: Target<'_>,
        workspace: &mut Workspace,
        out: &mut Gradient,
    ) -> Result<f32, NnError> {
        let mut found = 0.0;
        self.record_gradients(prepared, &[(record, target)], workspace, out, |_, outcome, _| {
            found = outcome.loss;
            Ok::<_, NnError>(())
        })?;
        Ok(found)
    }

    /// [`Network::record_gradient`] of each of `records`, with the same bits, but a chunk of them at a time on the way there
    /// and back: a recurrent layer multiplies many rows where one record has one. Each gradient is written to `out` and
    /// `each` is called with the record's place, its loss and whether it was right, and its gradient, in order: all of them
    /// made from the record's own outputs alone, with the same bits in any company.
    ///
    /// # Errors
    /// As there, before any gradient is computed; and what `each` gives, which ends it.
    pub fn record_gradients<E: From<NnError>>(
        &self,
        prepared: &Prepared,
        records: &[(Record<'_>, Target<'_>)],
        workspace: &mut Workspace,
        out: &mut Gradient,
        mut each: impl FnMut(usize, Outcome, &Gradient) -> Result<(), E>,
    ) -> Result<(), E> {
        self.check_call(prepared, workspace, Some(out))?;
        records.iter().try_for_each(|&(record, target)| self.check_example(record, target))?;
        let mut memory = std::mem::take(&mut workspace.batch);
        let mut chunks = records.chunks(self.chunk_len).enumerate();
        let result = chunks.try_for_each(|(i, examples)| {
            let chunk = memory.hold(self, examples);
            self.chunk_of_record_gradients(prepared, chunk, examples, workspace, out, |place, outcome, gradient| {
                each(i * self.chunk_len + place, outcome, gradient)
            })
        });
        workspace.batch = memory;
        result
    }

    fn chunk_of_record_gradients<E>(
        &self,
        prepared: &Prepared,
        chunk: Records<'_>,
        examples: &[(Record<'_>, Target<'_>)],
        workspace: &mut Workspace,
        out: &mut Gradient,
        mut each: impl FnMut(usize, Outcome, &Gradient) -> Result<(), E>,
    ) -> Result<(), E> {
        for i in 0..self.steps.len() {
            self.step_forward(i, prepared, chunk, workspace);
        }
        self.copy_logits(chunk, workspace);
        let mut outcomes = [Outcome::default(); N_RECORDS_MAX];
        let logits = workspace.logits.chunks_exact_mut(self.n_outputs);
        for ((logits, &(_, target)), outcome) in logits.zip(examples).zip(&mut outcomes) {
            *outcome = self.outcome(logits, target);
        }
        let logits = &workspace.logits[..chunk.n * self.n_outputs];
        if let Some(last) = workspace.gradients.last_mut() {
            last[..logits.len()].copy_from_slice(logits);
        }
        for i in (0..self.steps.len()).rev() {
            self.step_backward(i, prepared, chunk, workspace);
        }
        for (record, outcome) in outcomes.into_iter().enumerate().take(chunk.n) {
            out.begin();
            for (i, step) in self.steps.iter().enumerate() {
                let Some((layer, pass, scratch)) = self.products(i, chunk, workspace) else { continue };
                layer.record_gradient(pass, record, scratch, out.values_mut(step.range()));
            }
            self.touch(chunk, record..record + 1, workspace, out);
            each(record, outcome, out)?;
        }
        Ok(())
    }

    /// What a record's `logits` say of its checked target; the gradient with respect to them takes their place.
    fn outcome(&self, logits: &mut [f32], target: Target<'_>) -> Outcome {
        let is_right = match target {
            Target::Class(class) => self.loss.is_right(logits, class).unwrap_or_default(),
            Target::Values(_) => false,
        };
        Outcome { loss: self.loss.gradient(logits, target), is_right, norm: None }
    }

    /// [`Network::record_gradient`], but a value that is not finite is an error.
    ///
    /// # Errors
    /// As there; and [`NnError::NonFinite`] names the first layer, along the way of the computation, whose input,
    /// parameters, output or gradient holds a NaN or an infinity.
    pub fn check_record(
        &self,
        prepared: &Prepared,
        record: Record<'_>,
        target: Target<'_>,
        workspace: &mut Workspace,
        out: &mut Gradient,
    ) -> Result<f32, NnError> {
        let loss = self.record_gradient(prepared, record, target, workspace, out)?;
        self.check_finite(prepared, record.values, 1, &[loss], workspace, out)?;
        Ok(loss)
    }

    /// Names the first layer, along the way of the computation of `n` records, that holds a value that is not finite.
    fn check_finite(
        &self,
        prepared: &Prepared,
        values: &[f32],
        n: usize,
        losses: &[f32],
        workspace: &Workspace,
        out: &[f32],
    ) -> Result<(), NnError> {
        let finite = |values: &[f32], index: usize, what: &'static str| match values.iter().all(|v| v.is_finite()) {
            true => Ok(()),
            false => Err(NnError::NonFinite { layer: self.spec.layers()[index].name.clone(), what }),
        };
        for index in 0..self.spec.layers().len() {
            if let Some(range) = self.spec.record_range(index) {
                values
                    .chunks_exact(self.input_len)
                    .try_for_each(|values| finite(&values[range.clone()], index, "input"))?;
            }
        }
        for (i, step) in self.steps.iter().enumerate() {
            finite(&prepared.layers[i].flat, step.index, "parameters")?;
            finite(&workspace.outputs[i][..n * step.layer.output_len()], step.index, "output")?;
        }
        finite(losses, self.spec.layers().len() - 1, "loss")?;
        for step in self.steps.iter().rev() {
            finite(&out[step.range()], step.index, "gradient")?;
        }
        Ok(())
    }

    /// The model's outputs for `records`, one a row, flat: `[n_records, n_outputs]`. Nothing is dropped. Each row has the
    /// same bits in any batch.
    ///
    /// # Errors
    /// If a row is not a record, or `prepared` or `workspace` is of another network.
    pub fn predict(
        &self,
        prepared: &Prepared,
        records: ArrayView2<'_, f32>,
        workspace: &mut Workspace,
    ) -> Result<Array2<f32>, NnError> {
        let mut out = Array2::zeros((records.nrows(), self.n_outputs));
        let mut row = 0;
        self.for_each_logits(prepared, records, workspace, |_, logits| {
            self.loss.outputs(logits);
            for (to, from) in out.row_mut(row).iter_mut().zip(logits.iter()) {
                *to = *from;
            }
            row += 1;
            Ok(())
        })?;
        Ok(out)
    }

    /// Mean loss and accuracy over `data`. Among equal outputs the first counts as the largest; a single output says class
    /// 1 if it is above one half.
    ///
    /// # Errors
    /// If the records or labels do not fit the model or its loss knows no classes, or `prepared` or `workspace` is of another network.
    pub fn evaluate(
        &self,
        prepared: &Prepared,
        data: &Dataset,
        workspace: &mut Workspace,
    ) -> Result<Evaluation, NnError> {
        let (mut loss, mut n_right) = (0.0, 0_usize);
        self.for_each_logits(prepared, data.features(), workspace, |i, logits| {
            let class = data.label(i);
            n_right += usize::from(self.loss.is_right(logits, class)?);
            loss += f64::from(self.loss.gradient(logits, Target::Class(class)));
            Ok(())
        })?;
        let n_examples = data.len();
        let n = n_examples.max(1) as f64;
        Ok(Evaluation { n_examples, loss: loss / n, accuracy: n_right as f64 / n })
    }

    /// Where the time goes: the mean of `n_runs` gradients of `record`, layer by layer.
    ///
    /// # Errors
    /// As [`Network::record_gradient`].
    pub fn profile(
        &self,
        prepared: &Prepared,
        record: Record<'_>,
        target: Target<'_>,
        workspace: &mut Workspace,
        n_runs: u32,
    ) -> Result<Vec<LayerTime>, NnError> {
        let mut out = self.gradient();
        let mut times = vec![[Duration::ZERO; 2]; self.steps.len()];
        let records = Records { values: record.values, n: 1, dropout_keys: record.dropout_key.as_slice() };
        for _ in 0..n_runs {
            // Leaves the workspace as a backward pass finds it.
            self.record_gradient(prepared, record, target, workspace, &mut out)?;
            for (i, [forward, _]) in times.iter_mut().enumerate() {
                let start = Instant::now();
                self.step_forward(i, prepared, records, workspace);
                *forward += start.elapsed();
            }
            for (i, [_, backward]) in times.iter_mut().enumerate().rev() {
                let start = Instant::now();
                self.step_backward(i, prepared, records, workspace);
                self.step_gradient(i, records, None, workspace, &mut out);
                *backward += start.elapsed();
            }
        }
        let mean = |time: Duration| time / n_runs.max(1);
        let times = self.steps.iter().zip(times).map(|(step, [forward, backward])| LayerTime {
            layers: step.label.clone(),
            forward: mean(forward),
            backward: mean(backward),
        });
        Ok(times.collect())
    }

    fn check_call(&self, prepared: &Prepared, workspace: &Workspace, out: Option<&Gradient>) -> Result<(), NnError> {
        if prepared.network != self.digest {
            return Err(NnError::Foreign { what: "prepared parameters" });
        }
        if workspace.network != self.digest {
            return Err(NnError::Foreign { what: "workspace" });
        }
        if out.is_some_and(|gradient| gradient.network != self.digest) {
            return Err(NnError::Foreign { what: "gradient" });
        }
        Ok(())
    }

    fn check_example(&self, record: Record<'_>, target: Target<'_>) -> Result<(), NnError> {
        expect_len("record", record.values.len(), self.input_len)?;
        self.loss.check_target(target, self.n_outputs)?;
        if self.has_dropout() && record.dropout_key.is_none() {
            return Err(NnError::DropoutKey);
        }
        Ok(())
    }

    fn for_each_logits(
        &self,
        prepared: &Prepared,
        records: ArrayView2<'_, f32>,
        workspace: &mut Workspace,
        mut each: impl FnMut(usize, &mut [f32]) -> Result<(), NnError>,
    ) -> Result<(), NnError> {
        self.check_call(prepared, workspace, None)?;
        expect_len("record", records.ncols(), self.input_len)?;
        let records = records.as_standard_layout();
        let values = records.as_slice().unwrap_or_default();
        let mut first = 0;
        for chunk in values.chunks(self.chunk_len * self.input_len) {
            let n_records = chunk.len() / self.input_len;
            let chunk = Records { values: chunk, n: n_records, dropout_keys: &[] };
            for i in 0..self.steps.len() {
                self.step_forward(i, prepared, chunk, workspace);
            }
            self.copy_logits(chunk, workspace);
            for i in 0..n_records {
                each(first + i, &mut workspace.logits[i * self.n_outputs..(i + 1) * self.n_outputs])?;
            }
            first += n_records;
        }
        Ok(())
    }

    fn step_forward(&self, i: usize, prepared: &Prepared, records: Records<'_>, workspace: &mut Workspace) {
        let step = &self.steps[i];
        let (before, after) = workspace.outputs.split_at_mut(i);
        for (part, input) in step.inputs.iter().enumerate() {
            let pass = Forward {
                part,
                n_records: records.n,
                input: input.of(records, before),
                output: &mut after[0][..records.n * step.layer.output_len()],
                mask: step.mask(records, self.input_len),
                dropout_keys: records.dropout_keys,
            };
            step.layer.forward(&prepared.layers[i], pass, &mut workspace.scratch[i]);
        }
    }

    fn step_backward(&self, i: usize, prepared: &Prepared, records: Records<'_>, workspace: &mut Workspace) {
        let step = &self.steps[i];
        if !step.is_trained {
            return;
        }
        let (before, after) = workspace.gradients.split_at_mut(i);
        let len = records.n * step.layer.output_len();
        for (part, input) in step.inputs.iter().enumerate() {
            let input_len = records.n * input.len;
            let input_gradient = match (input.source, input.way_back) {
                (Source::Step(source), WayBack::Writes) => Some(&mut before[source][..input_len]),
                (Source::Step(_), WayBack::Adds) => Some(&mut workspace.aside[..input_len]),
                (Source::Record, _) | (_, WayBack::Ends) => None,
            };
            let pass = Backward {
                part,
                n_records: records.n,
                input: input.of(records, &workspace.outputs),
                output: &workspace.outputs[i][..len],
                output_gradient: &mut after[0][..len],
                input_gradient,
                mask: step.mask(records, self.input_len),
            };
            step.layer.backward(&prepared.layers[i], pass, &mut workspace.scratch[i]);
            if let (Source::Step(source), WayBack::Adds) = (input.source, input.way_back) {
                for (sum, x) in before[source].iter_mut().zip(&workspace.aside[..input_len]) {
                    *sum += x;
                }
            }
        }
    }

    /// After [`Network::step_backward`]: writes the step's share of the gradient.
    fn step_gradient(
        &self,
        i: usize,
        records: Records<'_>,
        factors: Option<&[f32]>,
        workspace: &mut Workspace,
        out: &mut Gradient,
    ) {
        let Some((layer, pass, scratch)) = self.products(i, records, workspace) else { return };
        layer.gradient(pass, factors, scratch, out.values_mut(self.steps[i].range()));
    }

    /// After all steps have written the gradients of those of the chunk's records that `of` names: says in `out` what they
    /// wrote.
    fn touch(&self, chunk: Records<'_>, of: Range<usize>, workspace: &Workspace, out: &mut Gradient) {
        for step in self.steps.iter().filter(|step| step.layer.n_parameters() > 0) {
            let mut has_rows = false;
            out.touch_rows(step.offset, |rows| {
                has_rows = step.inputs.first().is_some_and(|input| {
                    let values = input.of(chunk, &workspace.outputs);
                    let len = values.len() / chunk.n;
                    step.layer.rows(&values[of.start * len..of.end * len], rows)
                });
            });
            if !has_rows {
                out.touch(step.range());
            }
        }
    }

    /// What the gradient with respect to a step's parameters is made from, if it has any.
    fn products<'a>(
        &'a self,
        i: usize,
        records: Records<'a>,
        workspace: &'a mut Workspace,
    ) -> Option<(&'a dyn Layer, Products<'a>, &'a mut Scratch)> {
        let step = &self.steps[i];
        // A layer with parameters has one input.
        let input = step.inputs.first().filter(|_| step.layer.n_parameters() > 0)?;
        let products = Products {
            n_records: records.n,
            input: input.of(records, &workspace.outputs),
            output_gradient: &mut workspace.gradients[i][..records.n * step.layer.output_len()],
        };
        Some((&*step.layer, products, &mut workspace.scratch[i]))
    }

    fn copy_logits(&self, records: Records<'_>, workspace: &mut Workspace) {
        let len = records.n * self.n_outputs;
        let logits = workspace.outputs.last().map_or(records.values, |output| output);
        workspace.logits[..len].copy_from_slice(&logits[..len]);
    }
}

impl Prepared {
    /// The parameters in one vector, as [`Network::prepare`] took them.
    pub fn parameters(&self) -> Vec<f32> {
        self.layers.iter().flat_map(|layer| layer.flat.iter().copied()).collect()
    }
}

/// What goes through the steps at once.
#[derive(Clone, Copy)]
struct Records<'a> {
    /// Their values, one record after the other.
    values: &'a [f32],
    /// How many there are.
    n: usize,
    /// Their keys, in training.
    dropout_keys: &'a [u64],
}

impl Input {
    fn of<'a>(&self, records: Records<'a>, outputs: &'a [Buffer]) -> &'a [f32] {
        match self.source {
            Source::Record => records.values,
            Source::Step(step) => &outputs[step][..records.n * self.len],
        }
    }
}

impl Step {
    /// Values that each record of a chunk takes.
    fn n_values(&self) -> usize {
        let (one, two) = (self.layer.scratch_len(1), self.layer.scratch_len(2));
        2 * self.layer.output_len() + (two.floats - one.floats) + (two.indices - one.indices)
    }

    fn mask<'a>(&self, records: Records<'a>, record_len: usize) -> Option<Mask<'a>> {
        self.mask.map(|(start, len)| Mask { records: records.values, record_len, start, len })
    }
}

impl ParameterEntry {
    /// How many values it has.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn expect_len(what: &'static str, found: usize, expected: usize) -> Result<(), NnError> {
    if found == expected { Ok(()) } else { Err(NnError::Length { what, found, expected }) }
}

/// Values that a chunk holds, where one record's are not more already: 16 MB.
const CHUNK_VALUES: usize = 1 << 22;
