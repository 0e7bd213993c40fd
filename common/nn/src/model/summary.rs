//! The table that Keras prints with `model.summary()`.

use super::{LayerKind, ModelSpec, product};

impl ModelSpec {
    /// Layers, output shapes and parameters, as Keras prints them 80 columns wide: a chain as a Sequential model, anything
    /// else as a Functional one, with what each layer reads.
    pub fn summary(&self) -> String {
        let layers = self.layers();
        let is_chain = layers.iter().enumerate().all(|(i, layer)| match i.checked_sub(1) {
            None => layer.inputs.is_empty(),
            Some(previous) => layer.inputs == [previous as u32],
        });
        let (heads, widths): (&[&str], &[usize]) = match is_chain {
            true => (&["Layer (type)", "Output Shape", "Param #"], &[31, 22, 13]),
            false => (&["Layer (type)", "Output Shape", "Param #", "Connected to"], &[19, 17, 10, 17]),
        };
        let mut out = format!("Model: \"{}\"\n", self.name());
        out += &rule(widths, ['┏', '━', '┳', '┓']);
        out += &row('┃', widths, heads);
        out += &rule(widths, ['┡', '━', '╇', '┩']);
        let mut is_first = true;
        for (i, layer) in layers.iter().enumerate() {
            // Keras leaves the input of a Sequential model out.
            if is_chain && matches!(layer.kind, LayerKind::InputLayer { .. }) {
                continue;
            }
            if !is_first {
                out += &rule(widths, ['├', '─', '┼', '┤']);
            }
            is_first = false;
            let lengths = self.shapes()[i].iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let n_parameters: u64 = self.parameter_shapes(i).iter().map(|(_, shape)| product(shape)).sum();
            let read = layer.inputs.iter().map(|&input| format!("{}[0][0]", layers[input as usize].name));
            let read = read.collect::<Vec<_>>().join(", ");
            let cells = [
                &*format!("{} ({})", layer.name, layer.kind.class_name()),
                &*format!("(None, {lengths})"),
                &*grouped(n_parameters),
                if read.is_empty() { "-" } else { &*read },
            ];
            out += &row('│', widths, &cells[..widths.len()]);
        }
        out += &rule(widths, ['└', '─', '┴', '┘']);
        let total = format!("{} ({})", grouped(self.n_parameters() as u64), bytes(4 * self.n_parameters()));
        out += &format!(" Total params: {total}\n Trainable params: {total}\n Non-trainable params: 0 (0.00 B)\n");
        out
    }
}

fn rule(widths: &[usize], [left, line, cross, right]: [char; 4]) -> String {
    let lines = widths.iter().map(|width| line.to_string().repeat(width + 2)).collect::<Vec<_>>();
    format!("{left}{}{right}\n", lines.join(&cross.to_string()))
}

/// One row of the table, as many lines high as its cells call for. Numbers, the third column, stand on the right.
fn row(bar: char, widths: &[usize], cells: &[&str]) -> String {
    let wrapped: Vec<Vec<String>> = cells.iter().zip(widths).map(|(cell, &width)| wrap(cell, width)).collect();
    let height = wrapped.iter().map(Vec::len).max().unwrap_or(0);
    let mut out = String::new();
    for line in 0..height {
        for (column, (lines, &width)) in wrapped.iter().zip(widths).enumerate() {
            let text = lines.get(line).map_or("", String::as_str);
            out += &match column {
                2 => format!("{bar} {text:>width$} "),
                _ => format!("{bar} {text:<width$} "),
            };
        }
        out += &format!("{bar}\n");
    }
    out
}

/// As many words on a line as fit, a longer one cut short.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let len = word.chars().count();
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + len <= width => *line = format!("{line} {word}"),
            _ if len <= width => lines.push(word.to_owned()),
            _ => lines.push(word.chars().take(width - 1).chain(['…']).collect()),
        }
    }
    lines
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
