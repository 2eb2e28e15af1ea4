//! What a suite found: a table for people, JSON for machines.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// Conditions and results of one run.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub conditions: BTreeMap<&'static str, String>,
    pub results: Vec<Measure>,
}

/// One number, and the bars that it is held against.
#[derive(Debug, Serialize)]
pub struct Measure {
    pub id: Cow<'static, str>,
    pub value: f64,
    pub unit: &'static str,
    pub gate: Option<f64>,
    pub stretch: Option<f64>,
    /// Whether less is better, and the bars are ceilings.
    pub is_ceiling: bool,
    /// Whether the gate is met; nothing where there is none.
    pub met: Option<bool>,
}

impl Measure {
    /// A number that is reported and not judged.
    pub fn plain(id: impl Into<Cow<'static, str>>, value: f64, unit: &'static str) -> Self {
        Self {
            id: id.into(),
            value: rounded(value),
            unit,
            gate: None,
            stretch: None,
            is_ceiling: false,
            met: None,
        }
    }

    /// A ratio that must reach `gate`, and should reach `stretch`.
    pub fn ratio(id: impl Into<Cow<'static, str>>, value: f64, gate: f64, stretch: f64) -> Self {
        Self {
            gate: Some(gate),
            stretch: Some(stretch),
            met: Some(value >= gate),
            ..Self::plain(id, value, "ratio")
        }
    }

    /// A number that must not be over `gate`, and should not be over `stretch`.
    pub fn at_most(
        id: impl Into<Cow<'static, str>>,
        value: f64,
        unit: &'static str,
        gate: f64,
        stretch: f64,
    ) -> Self {
        Self {
            gate: Some(gate),
            stretch: Some(stretch),
            is_ceiling: true,
            met: Some(value <= gate),
            ..Self::plain(id, value, unit)
        }
    }

    /// A number that must reach `gate`, and should reach `stretch`.
    pub fn at_least(
        id: impl Into<Cow<'static, str>>,
        value: f64,
        unit: &'static str,
        gate: f64,
        stretch: f64,
    ) -> Self {
        Self {
            unit,
            ..Self::ratio(id, value, gate, stretch)
        }
    }
}

impl Report {
    /// Notes a condition of the run.
    pub fn condition(&mut self, name: &'static str, value: impl Into<String>) {
        self.conditions.insert(name, value.into());
    }

    /// Prints both as a table.
    #[expect(clippy::print_stdout, reason = "the table is what was asked for")]
    pub fn print(&self) {
        println!("\nconditions");
        for (name, value) in &self.conditions {
            println!("  {name:<16} {value}");
        }
        println!(
            "\n{:<44} {:>12} {:<8} {:>8} {:>8}  result",
            "measure", "value", "unit", "gate", "stretch"
        );
        for measure in &self.results {
            println!(
                "{:<44} {:>12} {:<8} {:>8} {:>8}  {}",
                measure.id,
                measure.value,
                measure.unit,
                bar(measure, measure.gate),
                bar(measure, measure.stretch),
                match measure.met {
                    None => "",
                    Some(true) => "met",
                    Some(false) => "MISSED",
                }
            );
        }
    }

    /// Writes both as JSON.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("write the report as JSON")?;
        fs::write(file, text + "\n").with_context(|| format!("write {}", file.display()))
    }
}

/// The middle of the numbers, or the mean of the two middle ones; not a number when there is none.
#[must_use]
pub fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = numbers.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (Some(upper), 0) => {
            let lower = sorted.get(middle - 1).copied().unwrap_or(*upper);
            f64::midpoint(lower, *upper)
        }
        (Some(one), _) => *one,
        (None, _) => f64::NAN,
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

fn bar(measure: &Measure, value: Option<f64>) -> String {
    let sign = if measure.is_ceiling { "<=" } else { ">=" };
    value
        .map(|value| format!("{sign} {value}"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_the_mean_of_two() {
        assert!((median([3.0, 1.0, 9.0]) - 3.0).abs() < f64::EPSILON);
        assert!((median([4.0, 1.0, 2.0, 9.0]) - 3.0).abs() < f64::EPSILON);
        assert!(median([]).is_nan());
    }

    #[test]
    fn a_gate_is_met_from_its_own_value_upwards() {
        assert_eq!(Measure::ratio("put", 0.5, 0.5, 2.0).met, Some(true));
        assert_eq!(Measure::ratio("put", 0.499_9, 0.5, 2.0).met, Some(false));
        assert_eq!(Measure::plain("put", 0.1, "s").met, None);
    }

    #[test]
    fn a_ceiling_is_met_up_to_its_own_value() {
        assert_eq!(Measure::at_most("hit", 1.6, "x", 1.6, 1.4).met, Some(true));
        assert_eq!(
            Measure::at_most("hit", 1.600_1, "x", 1.6, 1.4).met,
            Some(false)
        );
    }

    #[test]
    fn the_report_has_the_agreed_fields() {
        let mut report = Report::default();
        report.condition("cipher", "aes256-gcm");
        report.results.push(Measure::ratio("put", 1.5, 0.5, 2.0));
        assert_eq!(
            serde_json::to_value(&report).unwrap(),
            serde_json::json!({
                "conditions": {"cipher": "aes256-gcm"},
                "results": [{"id": "put", "value": 1.5, "unit": "ratio", "gate": 0.5, "stretch": 2.0, "is_ceiling": false, "met": true}]
            })
        );
    }
}
