//! The parts of a suite: chosen by name, and measured one after the other.

use anyhow::{Result, anyhow, bail};
use clap::ValueEnum;
use portcullis_tests::report::Report;

use super::Arguments;

fn name(part: &impl ValueEnum) -> String {
    part.to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

/// The named parts, or all.
pub(super) fn chosen<P: ValueEnum>(names: &[String]) -> Result<Vec<P>> {
    if names.is_empty() {
        return Ok(P::value_variants().to_vec());
    }
    names
        .iter()
        .map(|wanted| {
            P::from_str(wanted, false).map_err(|_| {
                let known: Vec<String> = P::value_variants().iter().map(name).collect();
                anyhow!(
                    "{wanted:?} is no part of this suite; known are {}",
                    known.join(", ")
                )
            })
        })
        .collect()
}

/// Measures the parts into `report`, prints it, and writes it where the arguments say.
pub(super) fn measure<P: ValueEnum>(
    parts: Vec<P>,
    arguments: &Arguments,
    mut report: Report,
    run: impl Fn(P, &mut Report) -> Result<()>,
) -> Result<()> {
    let mut failed = Vec::new();
    for part in parts {
        let name = name(&part);
        println!("\n{name}");
        // A part that fails must not cost the others' figures.
        if let Err(error) = run(part, &mut report) {
            println!("  failed: {error:#}");
            failed.push(name);
        }
    }
    report.print();
    if let Some(file) = &arguments.json {
        report.write(file)?;
    }
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("these parts failed: {}", failed.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
    enum Part {
        Small,
        Local,
    }

    #[test]
    fn parts_are_chosen_by_name_and_all_without_one() {
        let chosen = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            chosen::<Part>(&names)
        };
        assert_eq!(chosen(&[]).unwrap(), [Part::Small, Part::Local]);
        assert_eq!(
            chosen(&["local", "small"]).unwrap(),
            [Part::Local, Part::Small]
        );
        let refused = chosen(&["local", "lokal"]).unwrap_err().to_string();
        assert!(
            refused.contains("lokal") && refused.contains("small"),
            "{refused}"
        );
    }
}
