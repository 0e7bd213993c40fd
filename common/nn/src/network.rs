//! What runs a model: forward, the exact gradient of one record, and evaluation.
//!
//! A network is compiled from a [`ModelSpec`] once: a convolution and the pooling after it become one step, `Flatten`
//! none at all, and the softmax at the end moves into the loss. Its parameters are one flat vector with a table of
//! (name, shape, offset) in Keras' order; gradients, moments and updates have the same layout, so that nothing is packed
//! before it is clipped, noised and masked.
//!
//! # The exact path
//! [`Network::record_gradient`] computes the gradient of one record from the model and that record alone. What makes it
//! so: no value of another record enters any of its sums; every sum is a chain of fused multiply-adds in an order that
//! depends on the model only; there is no state in a [`Workspace`] that outlives a call. It allocates nothing. Its time
//! depends a little on the record: which position won each pooling window decides which addresses are read.

use std::time::{Duration, Instant};

use eranos_base::{Digest, Entropy};
use ndarray::{Array2, ArrayView2};

use crate::{
    Activation, Buffer, Dataset, LayerKind, Loss, ModelSpec, NnError, Target,
    layers::{self, Layer, LayerParameters, Pass, Scratch},
    losses,
};

/// A model ready to run. Shared freely between threads; each thread needs a [`Workspace`] of its own.
#[derive(Debug)]
pub struct Network {
    spec: ModelSpec,
    digest: Digest,
    loss: Loss,
    table: Vec<ParameterEntry>,
    steps: Vec<Step>,
    input_len: usize,
    n_outputs: usize,
    /// Records that one chunk of a prediction takes.
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
    /// The gradient with respect to each step's output, for one record.
    gradients: Vec<Buffer>,
    scratch: Vec<Scratch>,
    logits: Buffer,
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

#[derive(Debug)]
struct Step {
    layer: Box<dyn Layer>,
    /// The specification's layer that names this step.
    index: usize,
    /// The layers it runs, for a person.
    label: String,
    /// Where its parameters lie.
    offset: usize,
    /// Whether anything before it has parameters.
    passes_gradient_on: bool,
}

impl Network {
    /// The network of `spec`, trained by `loss`.
    ///
    /// # Errors
    /// If the loss does not fit the model's last layer.
    pub fn new(spec: ModelSpec, loss: Loss) -> Result<Self, NnError> {
        let n_layers = spec.layers().len();
        let last = &spec.layers()[n_layers - 1];
        if last.kind.activation() != Activation::Softmax {
            return Err(NnError::Loss { loss: loss.name(), layer: last.name.clone() });
        }
        if spec.output_shape().len() != 1 {
            return Err(NnError::OutputShape { shape: spec.output_shape().to_vec() });
        }
        let mut table = Vec::new();
        let mut steps: Vec<Step> = Vec::new();
        let mut offset = 0;
        let mut index = 1;
        while index < n_layers {
            let layer = &spec.layers()[index];
            let step_offset = offset;
            for (variable, shape) in spec.parameter_shapes(index) {
                let entry = ParameterEntry { name: format!("{}/{variable}", layer.name), shape, offset };
                offset += entry.len();
                table.push(entry);
            }
            let next = spec.layers().get(index + 1);
            let mut label = layer.name.clone();
            // The softmax at the end belongs to the loss.
            let kind = if index + 1 == n_layers { without_activation(&layer.kind) } else { layer.kind.clone() };
            let (built, n_taken) = match layers::build(&kind, next.map(|l| &l.kind), spec.layer_input_shape(index)) {
                Some((built, fused)) => {
                    if let (true, Some(next)) = (fused, next) {
                        label = format!("{label} + {}", next.name);
                    }
                    (Some(built), if fused { 2 } else { 1 })
                }
                None => (None, 1),
            };
            if let Some(layer) = built {
                let passes_gradient_on = steps.iter().any(|step| step.layer.n_parameters() > 0);
                steps.push(Step { layer, index, label, offset: step_offset, passes_gradient_on });
            }
            index += n_taken;
        }
        let digest = spec.digest();
        let input_len = spec.input_shape().iter().product();
        let n_outputs = spec.output_shape().iter().product();
        let values: usize = steps.iter().map(|step| step.layer.output_len()).sum();
        let chunk_len = (CHUNK_VALUES / values.max(1)).clamp(1, CHUNK_LEN_MAX);
        Ok(Self { spec, digest, loss, table, steps, input_len, n_outputs, chunk_len })
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

    /// How many values a record has.
    pub fn input_len(&self) -> usize {
        self.input_len
    }

    /// How many values the model puts out for a record: its classes.
    pub fn n_outputs(&self) -> usize {
        self.n_outputs
    }

    /// Fresh parameters by Keras' default initialisers: kernels Glorot uniform, biases zero.
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
        let layers = self.steps.iter().map(|step| step.layer.prepare(&parameters[step.range()])).collect();
        Ok(Prepared { network: self.digest, layers })
    }

    /// The memory of one worker.
    pub fn workspace(&self) -> Workspace {
        let buffers = |n: usize| self.steps.iter().map(move |step| Buffer::zeroed(n * step.layer.output_len()));
        Workspace {
            network: self.digest,
            outputs: buffers(self.chunk_len).collect(),
            gradients: buffers(1).collect(),
            scratch: self.steps.iter().map(|step| step.layer.scratch()).collect(),
            logits: Buffer::zeroed(self.chunk_len * self.n_outputs),
        }
    }

    /// The exact path: writes the gradient of one record's loss to `out` and gives the loss.
    ///
    /// Both are functions of the parameters, the record and its target alone, bit for bit, whatever was computed before
    /// in the same workspace, on whatever thread and with whatever instruction set. Every value of `out` is written.
    ///
    /// Values that are not finite are not an error here: they show in the loss or in `out`, whose norm the caller
    /// computes in any case, and whose record then becomes zero by assignment. [`Network::check_record`] finds the layer
    /// they come from.
    ///
    /// # Errors
    /// If a slice has the wrong length, the target does not fit the loss, or `prepared` or `workspace` is of another
    /// network.
    pub fn record_gradient(
        &self,
        prepared: &Prepared,
        record: &[f32],
        target: Target<'_>,
        workspace: &mut Workspace,
        out: &mut [f32],
    ) -> Result<f32, NnError> {
        self.check_call(prepared, workspace)?;
        expect_len("record", record.len(), self.input_len)?;
        expect_len("gradient", out.len(), self.n_parameters())?;
        self.loss.check_target(target, self.n_outputs)?;
        for i in 0..self.steps.len() {
            self.step_forward(i, 1, prepared, record, workspace);
        }
        self.copy_logits(1, record, workspace);
        let loss = losses::softmax_crossentropy(&mut workspace.logits[..self.n_outputs], target);
        if let Some(last) = workspace.gradients.last_mut() {
            last.copy_from_slice(&workspace.logits[..self.n_outputs]);
        }
        for i in (0..self.steps.len()).rev() {
            self.step_backward(i, prepared, record, workspace, out);
        }
        Ok(loss)
    }

    /// [`Network::record_gradient`], but a value that is not finite is an error.
    ///
    /// # Errors
    /// As there; and [`NnError::NonFinite`] names the first layer, along the way of the computation, whose input,
    /// parameters, output or gradient holds a NaN or an infinity.
    pub fn check_record(
        &self,
        prepared: &Prepared,
        record: &[f32],
        target: Target<'_>,
        workspace: &mut Workspace,
        out: &mut [f32],
    ) -> Result<f32, NnError> {
        let name = |index: usize| self.spec.layers()[index].name.clone();
        let finite = |values: &[f32], index: usize, what: &'static str| match values.iter().all(|v| v.is_finite()) {
            true => Ok(()),
            false => Err(NnError::NonFinite { layer: name(index), what }),
        };
        let loss = self.record_gradient(prepared, record, target, workspace, out)?;
        finite(record, 0, "input")?;
        for (i, step) in self.steps.iter().enumerate() {
            finite(&prepared.layers[i].flat, step.index, "parameters")?;
            finite(&workspace.outputs[i][..step.layer.output_len()], step.index, "output")?;
        }
        finite(&[loss], self.spec.layers().len() - 1, "loss")?;
        for step in self.steps.iter().rev() {
            finite(&out[step.range()], step.index, "gradient")?;
        }
        Ok(loss)
    }

    /// The model's outputs for `records`, one a row: their class probabilities. Each row has the same bits in any batch.
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
            losses::softmax(logits);
            for (to, from) in out.row_mut(row).iter_mut().zip(logits.iter()) {
                *to = *from;
            }
            row += 1;
            Ok(())
        })?;
        Ok(out)
    }

    /// Mean loss and accuracy over `data`. Among equal outputs the first counts as the largest.
    ///
    /// # Errors
    /// If the records or labels do not fit the model, or `prepared` or `workspace` is of another network.
    pub fn evaluate(
        &self,
        prepared: &Prepared,
        data: &Dataset,
        workspace: &mut Workspace,
    ) -> Result<Evaluation, NnError> {
        let (mut loss, mut n_right) = (0.0, 0_usize);
        self.for_each_logits(prepared, data.features(), workspace, |i, logits| {
            let target = Target::Class(data.label(i));
            Loss::SparseCategoricalCrossentropy.check_target(target, logits.len())?;
            let mut best = 0;
            for (j, z) in logits.iter().enumerate() {
                if *z > logits[best] {
                    best = j;
                }
            }
            n_right += usize::from(best == data.label(i) as usize);
            loss += f64::from(losses::softmax_crossentropy(logits, target));
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
        record: &[f32],
        target: Target<'_>,
        workspace: &mut Workspace,
        n_runs: u32,
    ) -> Result<Vec<LayerTime>, NnError> {
        let mut out = Buffer::zeroed(self.n_parameters());
        let mut times = vec![[Duration::ZERO; 2]; self.steps.len()];
        for _ in 0..n_runs {
            // Leaves the workspace as a backward pass finds it.
            self.record_gradient(prepared, record, target, workspace, &mut out)?;
            for (i, [forward, _]) in times.iter_mut().enumerate() {
                let start = Instant::now();
                self.step_forward(i, 1, prepared, record, workspace);
                *forward += start.elapsed();
            }
            for (i, [_, backward]) in times.iter_mut().enumerate().rev() {
                let start = Instant::now();
                self.step_backward(i, prepared, record, workspace, &mut out);
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

    fn check_call(&self, prepared: &Prepared, workspace: &Workspace) -> Result<(), NnError> {
        if prepared.network != self.digest {
            return Err(NnError::Foreign { what: "prepared parameters" });
        }
        if workspace.network != self.digest {
            return Err(NnError::Foreign { what: "workspace" });
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
        self.check_call(prepared, workspace)?;
        expect_len("record", records.ncols(), self.input_len)?;
        let records = records.as_standard_layout();
        let values = records.as_slice().unwrap_or_default();
        let mut first = 0;
        for chunk in values.chunks(self.chunk_len * self.input_len) {
            let n_records = chunk.len() / self.input_len;
            for i in 0..self.steps.len() {
                self.step_forward(i, n_records, prepared, chunk, workspace);
            }
            self.copy_logits(n_records, chunk, workspace);
            for i in 0..n_records {
                each(first + i, &mut workspace.logits[i * self.n_outputs..(i + 1) * self.n_outputs])?;
            }
            first += n_records;
        }
        Ok(())
    }

    fn step_forward(
        &self,
        i: usize,
        n_records: usize,
        prepared: &Prepared,
        records: &[f32],
        workspace: &mut Workspace,
    ) {
        let layer = &self.steps[i].layer;
        let (before, after) = workspace.outputs.split_at_mut(i);
        let input = before.last().map_or(records, |output| &output[..n_records * layer.input_len()]);
        let output = &mut after[0][..n_records * layer.output_len()];
        layer.forward(&prepared.layers[i], n_records, input, output, &mut workspace.scratch[i]);
    }

    fn step_backward(&self, i: usize, prepared: &Prepared, record: &[f32], workspace: &mut Workspace, out: &mut [f32]) {
        let step = &self.steps[i];
        if !step.passes_gradient_on && step.layer.n_parameters() == 0 {
            return;
        }
        let (before, after) = workspace.gradients.split_at_mut(i);
        let input = match i {
            0 => record,
            _ => &workspace.outputs[i - 1][..step.layer.input_len()],
        };
        let pass = Pass {
            input,
            output: &workspace.outputs[i][..step.layer.output_len()],
            output_gradient: &mut after[0],
            input_gradient: before.last_mut().filter(|_| step.passes_gradient_on).map(|gradient| &mut **gradient),
            gradient: &mut out[step.range()],
        };
        step.layer.backward(&prepared.layers[i], pass, &mut workspace.scratch[i]);
    }

    fn copy_logits(&self, n_records: usize, records: &[f32], workspace: &mut Workspace) {
        let len = n_records * self.n_outputs;
        let logits = workspace.outputs.last().map_or(records, |output| output);
        workspace.logits[..len].copy_from_slice(&logits[..len]);
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

impl Step {
    fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.layer.n_parameters()
    }
}

fn without_activation(kind: &LayerKind) -> LayerKind {
    let mut kind = kind.clone();
    match &mut kind {
        LayerKind::Conv2D { activation, .. }
        | LayerKind::Dense { activation, .. }
        | LayerKind::Activation(activation) => {
            *activation = Activation::Linear;
        }
        LayerKind::InputLayer { .. } | LayerKind::MaxPooling2D { .. } | LayerKind::Flatten => {}
    }
    kind
}

fn expect_len(what: &'static str, found: usize, expected: usize) -> Result<(), NnError> {
    if found == expected { Ok(()) } else { Err(NnError::Length { what, found, expected }) }
}

/// Most records that one chunk of a prediction takes.
const CHUNK_LEN_MAX: usize = 16;
/// Values that the layers' outputs of one chunk hold together, where one record's are not more already.
const CHUNK_VALUES: usize = 1 << 20;
