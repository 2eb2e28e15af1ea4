//! What a suite found: a table for people, JSON for machines.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// Conditions and results of one run.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) conditions: BTreeMap<&'static str, String>,
    pub(super) results: Vec<Measure>,
}

/// One number, and the bars that it is held against: higher is better where there is a gate.
#[derive(Debug, Serialize)]
pub(super) struct Measure {
    pub(super) id: &'static str,
    pub(super) value: f64,
    pub(super) unit: &'static str,
    pub(super) gate: Option<f64>,
    pub(super) stretch: Option<f64>,
    /// Whether the gate is met; nothing where there is none.
    pub(super) met: Option<bool>,
}

impl Measure {
    /// A number that is reported and not judged.
    pub(super) fn plain(id: &'static str, value: f64, unit: &'static str) -> Self {
        Self {
            id,
            value: rounded(value),
            unit,
            gate: None,
            stretch: None,
            met: None,
        }
    }

    /// A ratio that must reach `gate`, and should reach `stretch`.
    pub(super) fn ratio(id: &'static str, value: f64, gate: f64, stretch: f64) -> Self {
        Self {
            id,
            value: rounded(value),
            unit: "ratio",
            gate: Some(gate),
            stretch: Some(stretch),
            met: Some(value >= gate),
        }
    }
}

impl Report {
    pub(super) fn condition(&mut self, name: &'static str, value: impl Into<String>) {
        self.conditions.insert(name, value.into());
    }

    pub(super) fn print(&self) {
        println!("\nconditions");
        for (name, value) in &self.conditions {
            println!("  {name:<16} {value}");
        }
        println!(
            "\n{:<32} {:>10} {:<8} {:>6} {:>8}  result",
            "measure", "value", "unit", "gate", "stretch"
        );
        for measure in &self.results {
            println!(
                "{:<32} {:>10} {:<8} {:>6} {:>8}  {}",
                measure.id,
                measure.value,
                measure.unit,
                bar(measure.gate),
                bar(measure.stretch),
                match measure.met {
                    None => "",
                    Some(true) => "met",
                    Some(false) => "MISSED",
                }
            );
        }
    }

    pub(super) fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("write the report as JSON")?;
        fs::write(file, text + "\n").with_context(|| format!("write {}", file.display()))
    }
}

/// The middle of the numbers, or the mean of the two middle ones; not a number when there is none.
pub(super) fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
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

fn bar(value: Option<f64>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
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
    fn the_report_has_the_agreed_fields() {
        let mut report = Report::default();
        report.condition("cipher", "aes256-gcm");
        report.results.push(Measure::ratio("put", 1.5, 0.5, 2.0));
        assert_eq!(
            serde_json::to_value(&report).unwrap(),
            serde_json::json!({
                "conditions": {"cipher": "aes256-gcm"},
                "results": [{"id": "put", "value": 1.5, "unit": "ratio", "gate": 0.5, "stretch": 2.0, "met": true}]
            })
        );
    }
}
