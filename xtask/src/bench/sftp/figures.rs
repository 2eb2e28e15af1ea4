//! From costs to the figures of the report.

use portcullis_tests::report::{Measure, Report, median};

use super::lab::{Cost, Transfers};

/// One of the two.
pub(super) type Pick = fn(&Transfers) -> Cost;

/// The middle of the rounds' values.
pub(super) fn over<T>(rounds: &[T], value: impl Fn(&T) -> f64) -> f64 {
    median(rounds.iter().map(value))
}

/// A ceiling on a ratio.
pub(super) fn at_most_ratio(id: &'static str, value: f64, gate: f64, stretch: f64) -> Measure {
    Measure::at_most(id, value, "ratio", gate, stretch)
}

/// MiB/s of so many MiB.
pub(super) fn speed(mebibytes: u64, cost: Cost) -> f64 {
    mebibytes as f64 / cost.seconds
}

/// Adds what is behind the ratios, each side by itself: MiB/s, and processor seconds for each GiB where the side's
/// processes are known.
pub(super) fn plain<const N: usize>(
    report: &mut Report,
    row: &str,
    sides: [&str; N],
    mebibytes: u64,
    rounds: &[[Transfers; N]],
) {
    let ways: [(&str, Pick); 2] = [("get", |both| both.get), ("put", |both| both.put)];
    for (way, pick) in ways {
        for (position, side) in sides.iter().enumerate() {
            let costs = || {
                rounds
                    .iter()
                    .filter_map(|round| round.get(position))
                    .map(pick)
            };
            report.results.push(Measure::plain(
                format!("sftp.{row}.{way}.{side}"),
                median(costs().map(|cost| speed(mebibytes, cost))),
                "MiB/s",
            ));
            let processor = median(costs().map(|cost| per_gibibyte(mebibytes, cost)));
            if processor.is_finite() {
                report.results.push(Measure::plain(
                    format!("sftp.{row}.{way}.{side}.cpu"),
                    processor,
                    "s/GiB",
                ));
            }
        }
    }
}

fn per_gibibyte(mebibytes: u64, cost: Cost) -> f64 {
    cost.processor * 1024.0 / mebibytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_gets_its_own_median_and_no_processor_time_where_none_is_known() {
        let cost = |seconds, processor| Cost { seconds, processor };
        let both = |cost| Transfers {
            put: cost,
            get: cost,
        };
        let round = |ours| [both(cost(ours, 0.5)), both(cost(4.0, f64::NAN))];
        let mut report = Report::default();
        plain(
            &mut report,
            "row",
            ["ours", "peer"],
            512,
            &[round(1.0), round(2.0), round(9.0)],
        );
        let found: Vec<(String, f64)> = report
            .results
            .iter()
            .map(|measure| (measure.id.to_string(), measure.value))
            .collect();
        let expected = |way: &str| {
            [
                (format!("sftp.row.{way}.ours"), 256.0),
                (format!("sftp.row.{way}.ours.cpu"), 1.0),
                (format!("sftp.row.{way}.peer"), 128.0),
            ]
        };
        assert_eq!(found, [expected("get"), expected("put")].concat());
    }
}
