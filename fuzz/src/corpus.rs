//! Writes valid inputs to `corpus/<target>/`, from where libFuzzer goes on.

use std::{fs, path::Path};

fn main() -> std::io::Result<()> {
    for (name, inputs) in eranos_fuzz::corpora() {
        let folder = Path::new("corpus").join(name);
        fs::create_dir_all(&folder)?;
        for (i, input) in inputs.iter().enumerate() {
            fs::write(folder.join(format!("valid-{i:02}")), input)?;
        }
    }
    Ok(())
}
