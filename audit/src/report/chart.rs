//! Pictures of a report. Their texts are dates, hours and fixed words, none of a peer's.

use std::fmt;

use plotters::{
    coord::Shift,
    drawing::DrawingAreaErrorKind,
    prelude::{
        ChartBuilder, DrawingArea, IntoDrawingArea as _, IntoSegmentedCoord as _, RGBColor,
        Rectangle, SVGBackend, SegmentValue, SeriesLabelPosition,
    },
    style::{BLACK, Color as _, WHITE},
};

use super::{Report, Totals};

const SIZE: (u32, u32) = (900, 260);
const BLUE: RGBColor = RGBColor(45, 100, 170);
const RED: RGBColor = RGBColor(190, 60, 50);
const GREEN: RGBColor = RGBColor(60, 140, 80);
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// A picture that could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("draw a picture of the report: {0}")]
pub struct ChartError(String);

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for ChartError {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self(error.to_string())
    }
}

/// One line of bars.
struct Series {
    name: &'static str,
    color: RGBColor,
    of: fn(&Totals) -> u64,
}

/// Logins and failures by day.
pub(super) fn logins(report: &Report) -> Result<String, ChartError> {
    let series = [
        Series {
            name: "logins",
            color: BLUE,
            of: |day| day.logins,
        },
        Series {
            name: "failed login steps",
            color: RED,
            of: |day| day.failures,
        },
        Series {
            name: "denials",
            color: GREEN,
            of: |day| day.denials,
        },
    ];
    bars(report, &series, "count")
}

/// Bytes by day.
pub(super) fn transfers(report: &Report) -> Result<String, ChartError> {
    let series = [
        Series {
            name: "uploaded",
            color: BLUE,
            of: |day| day.upload_bytes >> 20,
        },
        Series {
            name: "downloaded",
            color: RED,
            of: |day| day.download_bytes >> 20,
        },
    ];
    bars(report, &series, "MiB")
}

fn bars(report: &Report, series: &[Series], unit: &str) -> Result<String, ChartError> {
    let days: Vec<(&String, &Totals)> = report.days.iter().collect();
    let highest = days
        .iter()
        .flat_map(|(_, totals)| series.iter().map(|series| (series.of)(totals)))
        .max()
        .unwrap_or(0)
        .max(1);
    draw(SIZE, |area| {
        let last = days.len().saturating_sub(1);
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(56)
            .build_cartesian_2d((0..last).into_segmented(), 0..highest + highest / 10 + 1)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(days.len().min(16))
            .x_label_formatter(&|value| label(value, &days))
            .y_desc(unit)
            .draw()?;
        let width = 0.8 / series.len() as f64;
        for (number, series) in series.iter().enumerate() {
            let style = series.color.filled();
            // Bars of one day stand side by side, in tenths of a day.
            let plot = chart.plotting_area();
            let pixels = plot.get_pixel_range().0;
            let day = f64::from(pixels.end - pixels.start) / days.len().max(1) as f64;
            for (at, (_, totals)) in days.iter().enumerate() {
                let value = (series.of)(totals);
                let (_, top) = plot.map_coordinate(&(SegmentValue::Exact(at), value));
                let (_, bottom) = plot.map_coordinate(&(SegmentValue::Exact(at), 0));
                let begin =
                    f64::from(pixels.start) + day * (at as f64 + 0.1 + width * number as f64);
                let end = begin + day * width;
                let (base_x, base_y) = area.get_base_pixel();
                let corners = [
                    (begin as i32 - base_x, top - base_y),
                    (end as i32 - base_x, bottom - base_y),
                ];
                area.draw(&Rectangle::new(corners, style))?;
            }
            chart
                .draw_series(std::iter::empty::<Rectangle<(SegmentValue<usize>, u64)>>())?
                .label(series.name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        Ok(())
    })
}

fn label(value: &SegmentValue<usize>, days: &[(&String, &Totals)]) -> String {
    match value {
        SegmentValue::Exact(at) | SegmentValue::CenterOf(at) => days
            .get(*at)
            .and_then(|(date, _)| Some(date.split_once('-')?.1.to_owned()))
            .unwrap_or_default(),
        SegmentValue::Last => String::new(),
    }
}

/// Logins by weekday and hour, dark where there are many.
pub(super) fn week(report: &Report) -> Result<String, ChartError> {
    let highest = report
        .week
        .iter()
        .flatten()
        .copied()
        .max()
        .unwrap_or(0)
        .max(1);
    draw((SIZE.0, 230), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(56)
            .build_cartesian_2d(0..24, 0..7)?;
        chart
            .configure_mesh()
            .disable_mesh()
            .x_labels(24)
            .y_labels(7)
            .y_label_formatter(&|day| {
                let day = usize::try_from(6 - *day).ok();
                day.and_then(|day| DAYS.get(day))
                    .copied()
                    .unwrap_or_default()
                    .to_owned()
            })
            .draw()?;
        let cells = report.week.iter().zip(0..).flat_map(|(hours, day)| {
            hours
                .iter()
                .zip(0..)
                .map(move |(logins, hour)| (*logins, day, hour))
        });
        chart.draw_series(cells.filter(|(logins, ..)| *logins > 0).map(
            |(logins, day, hour)| {
                let strength = 0.15 + 0.85 * logins as f64 / highest as f64;
                let corners = [(hour, 6 - day), (hour + 1, 7 - day)];
                Rectangle::new(corners, BLUE.mix(strength).filled())
            },
        ))?;
        Ok(())
    })
}

fn draw(
    size: (u32, u32),
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), ChartError>,
) -> Result<String, ChartError> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        draw(&area)?;
        area.present()?;
    }
    Ok(svg)
}

impl fmt::Debug for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
