//! `eranos plan`: what a schedule costs in epsilon, and which noise a promise needs, before anybody runs anything.
//!
//! Nothing private is read here, and nothing is charged: the arithmetic is that of the clients and the ledger
//! (`eranos_privacy`), and beside it the least epsilon there is, by privacy loss distributions. [`spend`] goes from noise to
//! epsilon, [`solve`] from epsilon to noise; what both say of an adversary is in [`view`].

mod advice;
mod cost;
mod solve;
mod spend;
mod view;

use std::fs;

use clap::Subcommand;
use eranos_base::{UserError, println};
use eranos_coordinator::task::Unit;
use eranos_privacy::Probability;

use self::view::View;

/// `eranos plan`.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// What a noise multiplier costs in epsilon
    Spend(spend::Options),
    /// Which noise a target needs, what it costs in bytes, and whether training survives it
    Solve(solve::Options),
}

/// Runs `eranos plan`.
pub(crate) fn run(command: Command) -> Result<(), UserError> {
    let (report, json, plot) = match command {
        Command::Spend(options) => (spend::spend(&options)?, options.json, options.plot),
        Command::Solve(options) => (solve::solve(&options)?, options.json, options.plot),
    };
    if let Some(path) = plot {
        fs::write(&path, report.headline.draw()).map_err(|error| {
            UserError::new(format!("cannot write {}: {error}", path.display()), "name a file in a folder that exists")
        })?;
    }
    println!("{}", if json { report.json.to_string() } else { report.lines.join("\n") });
    Ok(())
}

/// What is printed, and what the headline's adversary sees, for the drawing.
struct Report {
    lines: Vec<String>,
    json: serde_json::Value,
    headline: View,
}

/// The unit, its neighbouring relation, and against whom its sampling amplifies.
fn promise(unit: Unit, q: Probability) -> String {
    let relation = match unit {
        Unit::Record => "unit record: one record added or removed",
        Unit::Client => "unit client: one client's update replaced by zero, its noise stays",
    };
    // As it was named; what is reckoned with is rounded up.
    let shown = q.numerator() as f64 / q.denominator() as f64;
    let sampling = match (unit, q == Probability::ONE) {
        (_, true) => "no sampling".into(),
        (Unit::Record, false) => format!("each sampled in secret with probability {shown}"),
        (Unit::Client, false) => format!(
            "with probability {shown} an update and else zero, every client sending its noise (a coordinator that chooses \
             who takes part amplifies nothing)"
        ),
    };
    format!("{relation}; {sampling}")
}

fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Record => "record",
        Unit::Client => "client",
    }
}

/// A decimal such as 0.25 or a fraction such as 1/4, exactly.
fn probability(text: &str) -> Result<Probability, String> {
    let refused = || "expected a decimal or a fraction above 0, at most 1, such as 0.25 or 1/4".to_owned();
    let (numerator, denominator) = match text.split_once('/') {
        Some((above, below)) => (above.parse().map_err(|_| refused())?, below.parse().map_err(|_| refused())?),
        None => {
            let (whole, digits) = text.split_once('.').unwrap_or((text, ""));
            let scale = 10u64.checked_pow(u32::try_from(digits.len()).map_err(|_| refused())?).ok_or_else(refused)?;
            (format!("{whole}{digits}").parse::<u64>().map_err(|_| refused())?, scale)
        }
    };
    let divisor = common_divisor(numerator, denominator).max(1);
    Probability::new(numerator / divisor, denominator / divisor).map_err(|_| refused())
}

const fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probability_is_read_exactly() {
        let fraction = |text: &str| probability(text).map(|q| (q.numerator(), q.denominator()));
        assert_eq!(fraction("0.25"), Ok((1, 4)));
        assert_eq!(fraction("2/8"), Ok((1, 4)));
        assert_eq!(fraction("0.004267"), Ok((4267, 1_000_000)));
        assert_eq!(fraction("1"), Ok((1, 1)));
        assert_eq!(fraction(".5"), Ok((1, 2)));
        for refused in ["0", "1.5", "-0.1", "1/0", "0/0", "", ".", "a", "0.1e-3", "nan", "0.00000000000000000000001"] {
            assert!(fraction(refused).is_err(), "{refused}");
        }
    }
}
