//! The curves as a picture: nanoseconds a packet over the size of the list.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::{lookup::short, traffic::Kind};

/// Nanoseconds a packet, by panel, side and list size.
#[derive(Default)]
pub(crate) struct Curves {
    panels: BTreeMap<String, BTreeMap<String, Vec<(f64, f64)>>>,
}

const PANEL: (u32, u32) = (460, 340);
const COLUMNS: u32 = 3;

/// A side has the same colour in every panel; what only drops is grey, and ours is orange.
fn colour(side: &str) -> RGBColor {
    match side {
        "compiled table" => RGBColor(0xd5, 0x5e, 0x00),
        "LPM tries" => RGBColor(0x00, 0x72, 0xb2),
        "nftables netdev ingress" => RGBColor(0x00, 0x9e, 0x73),
        "nftables inet raw" => RGBColor(0xcc, 0x79, 0xa7),
        "iptables raw + ipset" => RGBColor(0xe6, 0x9f, 0x00),
        _ => RGBColor(0x77, 0x77, 0x77),
    }
}

impl Curves {
    pub(crate) fn lookup(
        &mut self,
        is_v6: bool,
        kind: Kind,
        side: &str,
        size: usize,
        nanoseconds: f64,
    ) {
        let family = if is_v6 { "IPv6" } else { "IPv4" };
        let panel = format!("{family} {}, test-run", kind.name());
        self.add(panel, side, size, nanoseconds);
    }

    pub(crate) fn flood(&mut self, side: &str, size: usize, nanoseconds: f64) {
        self.add(
            "IPv4 flood through veth".to_owned(),
            side,
            size,
            nanoseconds,
        );
    }

    fn add(&mut self, panel: String, side: &str, size: usize, nanoseconds: f64) {
        self.panels
            .entry(panel)
            .or_default()
            .entry(side.to_owned())
            .or_default()
            .push((size as f64, nanoseconds));
    }

    /// Draws what was measured, a panel for each kind of packet.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let count = u32::try_from(self.panels.len())?.max(1);
        let rows = count.div_ceil(COLUMNS);
        let size = (PANEL.0 * COLUMNS.min(count), PANEL.1 * rows);
        let root = SVGBackend::new(file, size).into_drawing_area();
        root.fill(&WHITE).map_err(broken)?;
        let areas = root.split_evenly((rows as usize, COLUMNS.min(count) as usize));
        for ((title, sides), area) in self.panels.iter().zip(&areas) {
            draw(title, sides, area)?;
        }
        root.present().map_err(broken)
    }
}

fn draw(
    title: &str,
    sides: &BTreeMap<String, Vec<(f64, f64)>>,
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
) -> Result<()> {
    let highest = sides
        .values()
        .flatten()
        .map(|(_, nanoseconds)| *nanoseconds)
        .fold(100.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 15))
        .margin(10)
        .margin_right(30)
        .x_label_area_size(34)
        .y_label_area_size(46)
        .build_cartesian_2d(
            (1.0..1_000_000.0_f64).log_scale(),
            (10.0..highest * 1.5).log_scale(),
        )
        .map_err(broken)?;
    chart
        .configure_mesh()
        .x_desc("prefixes in the list")
        .y_desc("ns a packet")
        .x_label_formatter(&|size| short(*size as usize))
        .y_label_formatter(&|nanoseconds| format!("{nanoseconds}"))
        .light_line_style(WHITE)
        .draw()
        .map_err(broken)?;
    for (side, points) in sides {
        let colour = colour(side);
        chart
            .draw_series(
                LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3),
            )
            .map_err(broken)?
            .label(side)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(0xcc, 0xcc, 0xcc))
        .draw()
        .map_err(broken)
}

fn broken(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("draw the picture: {error}")
}
