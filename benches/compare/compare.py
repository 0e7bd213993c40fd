"""Training and running the built-in models beside Keras on TensorFlow, PyTorch, Opacus and onnxruntime.

    python3 -m venv venv && venv/bin/pip install -r benches/compare/requirements.txt
    venv/bin/python benches/compare/compare.py [--models cnn,lstm,nlp,recommender] [--batches 32,256] [--runs 7]

Everything runs on this machine's CPU with the same number of threads, on the same kind of random records, with Adam. Each
contestant is a process of its own that stays and waits; they take turns, about a second each, so that whatever else the
machine does meets them all. What is printed are medians of the runs, and ratios of medians.

Each framework is used as its own documentation shows: Keras by `fit`, on TensorFlow, with and without XLA (`jit_compile`),
PyTorch by a plain loop, as it is and through `torch.compile`, the better of which counts; Opacus by its hooks (with its
own LSTM, as it demands) and `DPOptimizer`, noise multiplier 1; onnxruntime by a session on the exported model.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "common/nn/src/model"
OURS = ["plain", "clipped", "noised", "exact", "private", "infer"]
KERAS = ["keras", "keras-xla", "keras-infer"]
TORCH = ["torch", "torch-compile", "opacus"]
OTHERS = KERAS + TORCH + ["onnxruntime"]


# ---- a contestant: a process that works whenever it is told to ----------------------------------------------------


def contestant(way, model, n_batch, n_threads):
    """Reads a number of seconds from each line of standard input, works that long, and answers with records and seconds."""
    for variable in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"]:
        os.environ[variable] = str(n_threads)
    # TensorFlow and PyTorch cannot be loaded into the same process: each brings its own LLVM.
    os.environ["KERAS_BACKEND"] = "tensorflow" if way in KERAS else "torch"
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    if way in KERAS:
        work = keras_work(way, model, n_batch, n_threads)
    elif way in TORCH:
        work = torch_work(way, model, n_batch, n_threads)
    else:
        work = onnx_work(model, n_batch, n_threads)
    for line in sys.stdin:
        seconds, n_records, start = float(line), 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            n_records += work()
        print(n_records, time.perf_counter() - start, flush=True)


def records(keras_model, n):
    """Random inputs and classes for a model: ids where an Embedding reads them, else values in [0, 1)."""
    import numpy as np

    generator = np.random.default_rng(1)
    embeddings = [layer for layer in keras_model.layers if type(layer).__name__ == "Embedding"]
    inputs = []
    for i, tensor in enumerate(keras_model.inputs):
        shape = (n, *tensor.shape[1:])
        if embeddings:
            inputs.append(generator.integers(1, embeddings[i].input_dim, shape).astype("int32"))
        else:
            inputs.append(generator.random(shape, dtype="float32"))
    n_classes = max(keras_model.output_shape[-1], 2)
    classes = (np.arange(n) % n_classes).astype("int32")
    return inputs, classes, n_classes


def load_keras(model):
    import keras

    return keras.models.model_from_json((MODELS / f"{model}.json").read_text())


def keras_work(way, name, n_batch, n_threads):
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(n_threads)
    tf.config.threading.set_inter_op_parallelism_threads(n_threads)
    model = load_keras(name)
    # Enough batches that what `fit` does once an epoch does not count.
    n = n_batch * max(20, 2000 // n_batch)
    inputs, classes, n_classes = records(model, n)
    is_binary = model.output_shape[-1] == 1
    if way == "keras-infer":
        batch = [tf.constant(part[:n_batch]) for part in inputs]
        batch = batch[0] if len(batch) == 1 else batch
        run = tf.function(lambda: model(batch, training=False))
        run()

        def infer():
            run()
            return n_batch

        return infer
    loss = "binary_crossentropy" if is_binary else "sparse_categorical_crossentropy"
    model.compile(optimizer=keras.optimizers.Adam(1e-5), loss=loss, jit_compile=way == "keras-xla")
    targets = classes.reshape(-1, *[1] * (len(model.output_shape) - 1)).astype("float32") if is_binary else classes

    def train():
        model.fit(inputs, targets, batch_size=n_batch, epochs=1, verbose=0, shuffle=False)
        return n

    train()
    return train


def torch_model(name, shapes, sizes, n_classes, for_opacus):
    """The same architecture out of PyTorch's own parts."""
    import torch
    from torch import nn

    if for_opacus:
        from opacus.layers import DPLSTM as Lstm
    else:
        Lstm = nn.LSTM

    class Last(nn.Module):
        """An LSTM's outputs at its last step, or at all."""

        def __init__(self, n_inputs, sequences):
            super().__init__()
            self.lstm, self.sequences = Lstm(n_inputs, 64, batch_first=True), sequences

        def forward(self, x):
            outputs, _ = self.lstm(x)
            return outputs if self.sequences else outputs[:, -1]

    class Recommender(nn.Module):
        def __init__(self):
            super().__init__()
            self.user, self.item = nn.Embedding(*sizes[0]), nn.Embedding(*sizes[1])
            self.hidden, self.out = nn.Linear(sizes[0][1] + sizes[1][1], 64), nn.Linear(64, 1)

        def forward(self, user, item):
            x = torch.cat([self.user(user), self.item(item)], dim=-1)
            return self.out(torch.relu(self.hidden(x)))

    if name == "cnn":
        return nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(1600, 64), nn.ReLU(), nn.Linear(64, n_classes),
        )  # fmt: skip
    if name == "lstm":
        n_channels = shapes[0][-1]
        return nn.Sequential(Last(n_channels, True), Last(64, True), Last(64, False), nn.Linear(64, n_classes))
    if name == "nlp":
        return nn.Sequential(nn.Embedding(*sizes[0]), Last(sizes[0][1], True), Last(64, False), nn.Linear(64, n_classes))
    return Recommender()


def torch_work(way, name, n_batch, n_threads):
    keras_model = load_keras(name)
    inputs, classes, n_classes = records(keras_model, n_batch)
    shapes = [tensor.shape[1:] for tensor in keras_model.inputs]
    sizes = [(e.input_dim, e.output_dim) for e in keras_model.layers if type(e).__name__ == "Embedding"]
    is_binary = keras_model.output_shape[-1] == 1
    n_parameters = keras_model.count_params()

    import torch

    torch.set_num_threads(n_threads)
    model = torch_model(name, shapes, sizes, n_classes, way == "opacus")
    n_own = sum(p.numel() for p in model.parameters())
    # PyTorch's LSTM has two biases for each gate, and is the only layer that differs.
    assert n_own == n_parameters + sum(p.numel() for n, p in model.named_parameters() if "bias_hh" in n or "hh.bias" in n)
    tensors = [torch.from_numpy(part) for part in inputs]
    if name == "cnn":
        tensors = [tensors[0].permute(0, 3, 1, 2).contiguous()]
    if sizes:
        tensors = [tensor.long() for tensor in tensors]
    if is_binary:
        loss_of = torch.nn.BCEWithLogitsLoss()
        targets = torch.from_numpy(classes).float().reshape(n_batch, *[1] * (len(keras_model.output_shape) - 1))
    else:
        loss_of, targets = torch.nn.CrossEntropyLoss(), torch.from_numpy(classes).long()
    if way == "opacus":
        import warnings

        warnings.filterwarnings("ignore")
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer

        model = GradSampleModule(model)
        optimizer = DPOptimizer(
            torch.optim.Adam(model.parameters(), lr=1e-5),
            noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=n_batch,
        )  # fmt: skip
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
        if way == "torch-compile":
            model = torch.compile(model)

    def train():
        optimizer.zero_grad()
        loss_of(model(*tensors), targets).backward()
        optimizer.step()
        return n_batch

    train()
    return train


def onnx_work(name, n_batch, n_threads):
    import onnxruntime

    model = load_keras(name)
    inputs, _, _ = records(model, n_batch)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.onnx"
        torch_export(name, model, n_batch, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = n_threads, 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {}
    for value, part in zip(session.get_inputs(), inputs):
        part = part.transpose(0, 3, 1, 2).copy() if name == "cnn" else part
        feed[value.name] = part.astype("int64") if "int64" in value.type else part

    def infer():
        session.run(None, feed)
        return n_batch

    infer()
    return infer


def torch_export(name, keras_model, n_batch, path):
    """The PyTorch twin as ONNX, softmax or sigmoid at its end: what PyTorch's own exporter makes of it."""
    import torch

    inputs, _, n_classes = records(keras_model, n_batch)
    shapes = [tensor.shape[1:] for tensor in keras_model.inputs]
    sizes = [(e.input_dim, e.output_dim) for e in keras_model.layers if type(e).__name__ == "Embedding"]
    end = torch.nn.Sigmoid() if keras_model.output_shape[-1] == 1 else torch.nn.Softmax(dim=-1)
    body = torch_model(name, shapes, sizes, n_classes, False)

    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.end = body, end

        def forward(self, *x):
            return self.end(self.body(*x))

    tensors = [torch.from_numpy(part) for part in inputs]
    if name == "cnn":
        tensors = [tensors[0].permute(0, 3, 1, 2).contiguous()]
    if sizes:
        tensors = [tensor.long() for tensor in tensors]
    torch.onnx.export(Whole().eval(), tuple(tensors), path, dynamo=False)


# ---- the match ----------------------------------------------------------------------------------------------------


class Process:
    def __init__(self, name, command):
        self.name, self.rates = name, []
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, cwd=ROOT
        )

    def run(self, seconds):
        try:
            self.process.stdin.write(f"{seconds}\n")
            self.process.stdin.flush()
            n_records, took = self.process.stdout.readline().split()
        except (OSError, ValueError):
            self.log.seek(0)
            lines = self.log.read().decode(errors="replace").strip().splitlines()
            raise SystemExit(f"{self.name} does not run: {lines[-1] if lines else 'no message'}\ninstall benches/compare/requirements.txt, or leave it out with --without {self.name}")
        return int(n_records) / float(took)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def match(model, n_batch, options):
    """Median records a second of every contestant, all taking turns."""
    ours = options.binary
    definition = str(MODELS / f"{model}.json")
    threads = str(options.threads)
    processes = [Process(way, [ours, way, definition, str(n_batch), threads]) for way in OURS if way in options.ways]
    for way in OTHERS:
        if way in options.ways:
            command = [sys.executable, __file__, "--contestant", way, model, str(n_batch), threads]
            processes.append(Process(way, command))
    for process in processes:
        process.run(0.5)  # compilation, caches
    for _ in range(options.runs):
        for process in processes:
            process.rates.append(process.run(options.seconds))
    for process in processes:
        process.close()
    return {process.name: statistics.median(process.rates) for process in processes}


def main():
    if sys.argv[1:2] == ["--contestant"]:
        way, model, n_batch, n_threads = sys.argv[2:]
        return contestant(way, model, int(n_batch), int(n_threads))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="cnn,lstm,nlp,recommender")
    parser.add_argument("--batches", default="32,256")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--without", default="", help="contestants to leave out, such as torch-compile,keras-xla")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each table row")
    options = parser.parse_args()
    without = options.without.split(",")
    options.ways = [way for way in OURS + OTHERS if way not in without]
    subprocess.run(["cargo", "build", "--release", "--quiet", "--example", "compare"], cwd=ROOT, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target"))
    options.binary = str(Path(target) / "release/examples/compare")
    if not options.json:
        print("| model, batch | " + " | ".join(options.ways) + " | plain/best | clipped costs | exact costs | noised/opacus | private/opacus | infer/onnxruntime |")
        print("|---" * (len(options.ways) + 7) + "|")
    for model in options.models.split(","):
        for n_batch in map(int, options.batches.split(",")):
            rates = match(model, n_batch, options)
            if options.json:
                print(json.dumps({"model": model, "batch": n_batch, "records_per_second": rates}), flush=True)
                continue
            best = max((rates[w] for w in ["keras", "keras-xla", "torch", "torch-compile"] if w in rates), default=None)
            cells = [f"{rates[way]:,.0f}" for way in options.ways]
            ratio = lambda a, b: f"{a / b:.2f}" if a and b else "-"
            cost = lambda a, b: f"{100 * (a / b - 1):.0f} %" if a and b else "-"
            get = rates.get
            cells += [
                ratio(get("plain"), best),
                cost(get("plain"), get("clipped")),
                cost(get("plain"), get("exact")),
                ratio(get("noised"), get("opacus")),
                ratio(get("private"), get("opacus")),
                ratio(get("infer"), get("onnxruntime")),
            ]
            print(f"| {model}, {n_batch} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
