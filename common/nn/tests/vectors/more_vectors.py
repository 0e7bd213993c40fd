"""Writes the sets `masked`, `graph` and `image` beside itself, computed by Keras 3 on JAX.

`pip install keras jax safetensors`, then `python more_vectors.py`. The format is that of README.md. What they cover
and the sets of the four models do not: a mask, two inputs in another order than their layers, layers that several
others read, Concatenate over time, sigmoid and tanh, windows with `same` and strides, categorical and binary
cross-entropy over several outputs, and the mean squared error. Dropout is not here: its mask is ours.
"""

import json
import os
import pathlib

os.environ["KERAS_BACKEND"] = "jax"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import layers  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

SEED = 20261127
ADAM = {"lr": 0.001, "beta1": 0.9, "beta2": 0.999, "eps": 1e-7}
FOLDER = pathlib.Path(__file__).parent


def masked(rng):
    model = keras.Sequential(
        [
            layers.Input((9,), dtype="int32", name="ids"),
            layers.Embedding(12, 6, mask_zero=True, name="rows"),
            layers.Dense(5, activation="tanh", name="mix"),
            layers.LSTM(8, return_sequences=True, name="first"),
            layers.Activation("relu", name="relu"),
            layers.LSTM(7, name="last"),
            layers.Dense(3, activation="softmax", name="classes"),
        ],
        name="masked",
    )
    ids = rng.integers(1, 12, (6, 9))
    # Padding in front, behind, both, inside, all of it, none.
    ids[0, :4] = 0
    ids[1, 5:] = 0
    ids[2, :2] = ids[2, 7:] = 0
    ids[3, 3] = ids[3, 5] = 0
    ids[4, :] = 0
    target = rng.dirichlet(np.ones(3), 6).astype(np.float32)
    return model, {"ids": ids.astype(np.int32)}, target, keras.losses.categorical_crossentropy


def graph(rng):
    series = layers.Input((6, 4), name="series")
    ids = layers.Input((5,), dtype="int32", name="ids")
    states = layers.LSTM(3, return_sequences=True, name="states")(series)
    rows = layers.Embedding(10, 3, name="rows")(ids)
    joined = layers.Concatenate(axis=1, name="joined")([states, rows])
    tanh = layers.Activation("tanh", name="tanh")(joined)
    flat = layers.Flatten(name="flat")(tanh)
    memory = layers.LSTM(4, name="memory")(joined)
    wide = layers.Concatenate(name="a_rather_long_name_of_a_concatenation")([flat, memory])
    hidden = layers.Dense(5, activation="sigmoid", name="hidden")(wide)
    both = layers.Concatenate(name="both")([hidden, memory, hidden])
    output = layers.Dense(3, activation="sigmoid", name="output")(both)
    model = keras.Model([ids, series], output, name="graph")
    inputs = {
        "ids": rng.integers(0, 10, (4, 5)).astype(np.int32),
        "series": rng.standard_normal((4, 6, 4)).astype(np.float32),
    }
    target = rng.random((4, 3)).astype(np.float32)
    return model, inputs, target, keras.losses.binary_crossentropy


def image(rng):
    model = keras.Sequential(
        [
            layers.Input((11, 10, 2), name="image"),
            layers.Conv2D(5, (3, 2), strides=(2, 1), padding="same", activation="tanh", name="strided"),
            layers.MaxPooling2D((3, 3), strides=(2, 2), padding="same", name="overlapping"),
            layers.Conv2D(4, 2, padding="same", use_bias=False, name="bare"),
            layers.Activation("sigmoid", name="sigmoid"),
            layers.Flatten(name="flat"),
            layers.Dense(3, name="values"),
        ],
        name="image",
    )
    inputs = {"image": rng.standard_normal((4, 11, 10, 2)).astype(np.float32)}
    return model, inputs, rng.standard_normal((4, 3)).astype(np.float32), keras.losses.mean_squared_error


def write(make):
    rng = np.random.default_rng(SEED)
    keras.utils.set_random_seed(SEED)
    model, inputs, target, loss = make(rng)
    variables = model.trainable_variables
    # Sequential puts its own name in front.
    names = [variable.path.removeprefix(f"{model.name}/") for variable in variables]
    # Biases that are not zero show more.
    for variable in variables:
        variable.assign(np.asarray(variable) + 0.1 * rng.standard_normal(variable.shape).astype(np.float32))
    x = list(inputs.values())
    x = x[0] if len(x) == 1 else x
    n = len(target)

    def example_losses(weights):
        output, _ = model.stateless_call(weights, model.non_trainable_variables, x, training=False)
        return loss(jnp.asarray(target), output), output

    def mean_loss(weights):
        return example_losses(weights)[0].mean()

    weights = [jnp.asarray(v.value) for v in variables]
    losses, output = example_losses(weights)
    jacobian = jax.jacrev(lambda weights: example_losses(weights)[0])(weights)
    norms = np.array([np.sqrt(sum((np.asarray(j[i], np.float64) ** 2).sum() for j in jacobian)) for i in range(n)])
    clip = float(np.float32(np.median(norms)))
    tensors = {f"input.{name}": value for name, value in inputs.items()}
    tensors |= {"target": target, "output": output, "per_example_loss": losses, "per_example_grad_norm": norms}
    gradient = jax.grad(mean_loss)(weights)
    for name, w, g, j in zip(names, weights, gradient, jacobian):
        tensors[f"weight.{name}"] = w
        tensors[f"grad.{name}"] = g
        scaled = [np.asarray(j[i], np.float64) * min(1.0, clip / norms[i]) for i in range(n)]
        tensors[f"clipped_sum.{name}"] = sum(scaled)
    optimizer = keras.optimizers.Adam(ADAM["lr"], beta_1=ADAM["beta1"], beta_2=ADAM["beta2"], epsilon=ADAM["eps"])
    before = [float(mean_loss(weights))]
    for step in (1, 2):
        optimizer.apply(jax.grad(mean_loss)(weights), variables)
        weights = [jnp.asarray(v.value) for v in variables]
        before.append(float(mean_loss(weights)))
        tensors |= {f"adam{step}.{name}": w for name, w in zip(names, weights)}
    info = {
        "model": model.name,
        "seed": SEED,
        "loss": before[0],
        "losses_before_step_1_2_3": before,
        "clip_norm": clip,
        "adam": ADAM,
        "weights": names,
        "keras": keras.__version__,
        "jax": jax.__version__,
    }
    narrow = {np.dtype(np.float64): np.float32}
    tensors = {name: np.asarray(value) for name, value in tensors.items()}
    tensors = {name: np.ascontiguousarray(t, narrow.get(t.dtype, t.dtype)) for name, t in tensors.items()}
    save_file(tensors, FOLDER / f"{model.name}.safetensors", {"info": json.dumps(info)})
    (FOLDER / f"{model.name}.json").write_text(json.dumps(info, indent=1))
    (FOLDER / f"{model.name}.keras.json").write_text(json.dumps(json.loads(model.to_json()), indent=1))
    lines = []
    model.summary(line_length=76, print_fn=lines.append)
    (FOLDER / f"{model.name}.summary.txt").write_text("\n".join(lines).rstrip("\n") + "\n")


jax.config.update("jax_default_matmul_precision", "highest")
for make in (masked, graph, image):
    write(make)
