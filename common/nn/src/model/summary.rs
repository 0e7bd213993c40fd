//! The table that Keras prints with `model.summary()`.

use super::{LayerKind, ModelSpec, product};

impl ModelSpec {
    /// Layers, output shapes and parameters, as Keras prints them.
    pub fn summary(&self) -> String {
        let mut rows = Vec::new();
        for (i, layer) in self.layers().iter().enumerate() {
            // Keras leaves the input of a Sequential model out.
            if matches!(layer.kind, LayerKind::InputLayer { .. }) {
                continue;
            }
            let lengths = self.shapes()[i].iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let n_parameters: u64 = self.parameter_shapes(i).iter().map(|(_, shape)| product(shape)).sum();
            rows.push([
                format!("{} ({})", layer.name, layer.kind.class_name()),
                format!("(None, {lengths})"),
                grouped(n_parameters),
            ]);
        }
        let heads = ["Layer (type)", "Output Shape", "Param #"];
        let mut widths = [31, 22, 13];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let rule = |left: char, line: &str, cross: char, right: char| {
            let lines = widths.map(|width| line.repeat(width + 2)).join(&cross.to_string());
            format!("{left}{lines}{right}\n")
        };
        let cells = |bar: char, [layer, shape, n]: [&str; 3]| {
            let [a, b, c] = widths;
            format!("{bar} {layer:<a$} {bar} {shape:<b$} {bar} {n:>c$} {bar}\n")
        };
        let mut out = format!("Model: \"{}\"\n", self.name());
        out += &rule('┏', "━", '┳', '┓');
        out += &cells('┃', heads);
        out += &rule('┡', "━", '╇', '┩');
        for (i, [layer, shape, n]) in rows.iter().enumerate() {
            if i > 0 {
                out += &rule('├', "─", '┼', '┤');
            }
            out += &cells('│', [layer, shape, n]);
        }
        out += &rule('└', "─", '┴', '┘');
        let total = format!("{} ({})", grouped(self.n_parameters() as u64), bytes(4 * self.n_parameters()));
        out += &format!(" Total params: {total}\n Trainable params: {total}\n Non-trainable params: 0 (0.00 B)\n");
        out
    }
}

/// A number with a comma at every third digit.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn bytes(n: usize) -> String {
    let mut n = n as f64;
    for unit in ["B", "KB", "MB"] {
        if n < 1024.0 {
            return format!("{n:.2} {unit}");
        }
        n /= 1024.0;
    }
    format!("{n:.2} GB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cnn_prints_as_keras_prints_it() {
        let summary = ModelSpec::builtin("cnn").expect("built in").summary();
        let expected = "\
Model: \"sequential\"
┏━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━┓
┃ Layer (type)                    ┃ Output Shape           ┃       Param # ┃
┡━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━┩
│ conv2d (Conv2D)                 │ (None, 26, 26, 32)     │           320 │
├─────────────────────────────────┼────────────────────────┼───────────────┤
│ max_pooling2d (MaxPooling2D)    │ (None, 13, 13, 32)     │             0 │
├─────────────────────────────────┼────────────────────────┼───────────────┤
│ conv2d_1 (Conv2D)               │ (None, 11, 11, 64)     │        18,496 │
├─────────────────────────────────┼────────────────────────┼───────────────┤
│ max_pooling2d_1 (MaxPooling2D)  │ (None, 5, 5, 64)       │             0 │
├─────────────────────────────────┼────────────────────────┼───────────────┤
│ flatten (Flatten)               │ (None, 1600)           │             0 │
├─────────────────────────────────┼────────────────────────┼───────────────┤
│ dense (Dense)                   │ (None, 64)             │       102,464 │
├─────────────────────────────────┼────────────────────────┼───────────────┤
│ dense_1 (Dense)                 │ (None, 10)             │           650 │
└─────────────────────────────────┴────────────────────────┴───────────────┘
 Total params: 121,930 (476.29 KB)
 Trainable params: 121,930 (476.29 KB)
 Non-trainable params: 0 (0.00 B)
";
        assert_eq!(summary, expected);
    }
}
