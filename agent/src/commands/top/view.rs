//! The screen: what it shows, and what its keys do.

use std::{cmp::Ordering, ops::ControlFlow};

use ratatui::{
    buffer::Buffer,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    layout::{Constraint, Layout, Rect},
    style::{Modifier, Style, Stylize as _},
    text::{Line, Span},
    widgets::{Block, Paragraph, Row, Table, Widget},
};

use super::{
    Sample,
    head::head,
    text::{compact, grouped, percent, shortened},
};
use crate::answers::{
    rates::{Fate, Rate},
    recent::Dropped,
};

/// Rows of the rates when there is little room: the frame, the heads, and so many reasons.
const RATE_ROWS: u16 = 9;
/// Columns of a reason, which narrow screens take from the numbers.
const REASON_COLUMNS: u16 = 24;
/// Columns of the prefixes: the longest /48 and /24, a rate, a share, and the frame.
const PREFIX_COLUMNS: u16 = 36;

/// The panes that arrows move in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Pane {
    #[default]
    Rates,
    Sources,
    Prefixes,
}

/// What the rates are sorted by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Sort {
    #[default]
    TenSeconds,
    Second,
    Total,
    Reason,
}

impl Sort {
    fn next(self) -> Self {
        match self {
            Self::TenSeconds => Self::Second,
            Self::Second => Self::Total,
            Self::Total => Self::Reason,
            Self::Reason => Self::TenSeconds,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::TenSeconds => "10 s",
            Self::Second => "1 s",
            Self::Total => "total",
            Self::Reason => "reason",
        }
    }

    fn compare(self, a: &Rate, b: &Rate) -> Ordering {
        match self {
            Self::TenSeconds => b.per_second_of_ten.total_cmp(&a.per_second_of_ten),
            Self::Second => b.per_second.total_cmp(&a.per_second),
            Self::Total => b.total.cmp(&a.total),
            Self::Reason => a.reason.cmp(&b.reason),
        }
    }
}

/// What the screen shows.
#[derive(Debug, Default)]
pub(super) struct View {
    sample: Option<Sample>,
    /// Why there is nothing newer.
    fault: Option<String>,
    paused: bool,
    sort: Sort,
    pane: Pane,
    /// The first row shown of each pane.
    rates_from: usize,
    sources_from: usize,
    prefixes_from: usize,
}

impl View {
    /// Takes a new sample, or why there is none; the last one stays on the screen then.
    pub(super) fn show(&mut self, sample: Result<Sample, String>) {
        match sample {
            Ok(sample) => {
                self.sample = Some(sample);
                self.fault = None;
            }
            Err(fault) => self.fault = Some(fault),
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Does what the key says; breaks at the end.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a key that does nothing, whichever keys there are"
    )]
    pub(super) fn key(&mut self, key: KeyEvent) -> ControlFlow<()> {
        let page = 10;
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return ControlFlow::Break(()),
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return ControlFlow::Break(());
            }
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Right | KeyCode::Tab => self.pane = self.neighbour(1),
            KeyCode::Left | KeyCode::BackTab => self.pane = self.neighbour(2),
            KeyCode::Down => self.scroll(|from| from.saturating_add(1)),
            KeyCode::Up => self.scroll(|from| from.saturating_sub(1)),
            KeyCode::PageDown => self.scroll(|from| from.saturating_add(page)),
            KeyCode::PageUp => self.scroll(|from| from.saturating_sub(page)),
            KeyCode::Home => self.scroll(|_| 0),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn neighbour(&self, steps: usize) -> Pane {
        let panes = [Pane::Rates, Pane::Sources, Pane::Prefixes];
        panes
            .into_iter()
            .cycle()
            .skip_while(|pane| *pane != self.pane)
            .nth(steps)
            .unwrap_or_default()
    }

    fn scroll(&mut self, step: impl Fn(usize) -> usize) {
        let top = self.sample.as_ref().map(|sample| &sample.top);
        let (from, rows) = match self.pane {
            Pane::Rates => (&mut self.rates_from, top.map_or(0, |top| top.rates.len())),
            Pane::Sources => (
                &mut self.sources_from,
                top.map_or(0, |top| top.sources.len()),
            ),
            Pane::Prefixes => (
                &mut self.prefixes_from,
                top.map_or(0, |top| top.prefixes.len()),
            ),
        };
        *from = step(*from).min(rows.saturating_sub(1));
    }

    fn frame(&self, pane: Pane, title: String) -> Block<'static> {
        let style = if pane == self.pane {
            Style::new().add_modifier(Modifier::BOLD)
        } else {
            Style::new().add_modifier(Modifier::DIM)
        };
        Block::bordered().title(title).border_style(style)
    }

    fn rates(&self, sample: &Sample) -> Table<'static> {
        let mut rates: Vec<&Rate> = sample.top.rates.iter().collect();
        rates.sort_by(|a, b| self.sort.compare(a, b));
        let rows = rates.into_iter().skip(self.rates_from).map(|rate| {
            let (fate, style) = match rate.fate {
                Fate::Passed => ("passed", Style::new().green()),
                Fate::Dropped => ("dropped", Style::new().red()),
                Fate::WouldDrop => ("would drop", Style::new().yellow()),
            };
            Row::new([
                Line::styled(fate, style),
                Line::raw(rate.reason.clone()),
                number(rate.per_second),
                number(rate.per_second_of_ten),
                Line::raw(grouped(rate.total)).right_aligned(),
            ])
        });
        let widths = [
            Constraint::Length(10),
            Constraint::Min(REASON_COLUMNS),
            Constraint::Length(10),
            Constraint::Length(10),
            Constraint::Length(16),
        ];
        let heads = Row::new([
            Line::raw(""),
            Line::raw("reason"),
            Line::raw("1 s").right_aligned(),
            Line::raw("10 s").right_aligned(),
            Line::raw("total").right_aligned(),
        ])
        .add_modifier(Modifier::BOLD);
        let title = format!(" packets/s, by {} ", self.sort.name());
        Table::new(rows, widths)
            .header(heads)
            .block(self.frame(Pane::Rates, title))
    }

    fn dropped<K: ToString>(
        &self,
        pane: Pane,
        title: String,
        lines: &[Dropped<K>],
        (from, drops_per_second): (usize, f64),
        width: u16,
    ) -> Table<'static> {
        // The frame, the other columns, and a blank before each.
        let room = usize::from(width.saturating_sub(2 + 9 + 6));
        let rows = lines.iter().skip(from).map(|line| {
            Row::new([
                Line::raw(shortened(line.source.to_string(), room)),
                number(line.share * drops_per_second),
                Line::raw(percent(line.share)).right_aligned(),
            ])
        });
        let widths = [
            Constraint::Fill(1),
            Constraint::Length(8),
            Constraint::Length(5),
        ];
        let heads = Row::new([
            Line::raw(if pane == Pane::Sources {
                "source"
            } else {
                "prefix"
            }),
            Line::raw("~drops/s").right_aligned(),
            Line::raw("share").right_aligned(),
        ])
        .add_modifier(Modifier::BOLD);
        Table::new(rows, widths)
            .header(heads)
            .block(self.frame(pane, title))
    }

    fn footer(&self) -> Line<'static> {
        let mut spans = vec![
            Span::raw("q").bold(),
            Span::raw(" quit  "),
            Span::raw("p").bold(),
            Span::raw(" pause  "),
            Span::raw("s").bold(),
            Span::raw(" sort  "),
            Span::raw("arrows").bold(),
            Span::raw(" pane, scroll  "),
        ];
        if self.paused {
            spans.push(Span::raw(" PAUSED ").reversed());
        }
        if let Some(fault) = &self.fault {
            spans.push(Span::raw(format!(" {fault} ")).red().reversed());
        }
        Line::from(spans)
    }
}

impl Widget for &View {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let head = self.sample.as_ref().map_or_else(
            || vec![Line::raw("portcullis-agent: waiting for the first answer")],
            |sample| head(&sample.status),
        );
        let height = u16::try_from(head.len()).unwrap_or(u16::MAX);
        let [top, rates, dropped, footer] = area.layout(&Layout::vertical([
            Constraint::Length(height),
            Constraint::Length(RATE_ROWS.max((area.height / 3).saturating_sub(height / 2))),
            Constraint::Fill(1),
            Constraint::Length(1),
        ]));
        Paragraph::new(head).render(top, buffer);
        self.footer().render(footer, buffer);
        let Some(sample) = &self.sample else { return };
        self.rates(sample).render(rates, buffer);
        let [sources, prefixes] = dropped.layout(&Layout::horizontal([
            Constraint::Fill(1),
            Constraint::Length(PREFIX_COLUMNS),
        ]));
        let drops_per_second = sample
            .top
            .rates
            .iter()
            .filter(|rate| rate.fate != Fate::Passed)
            .map(|rate| rate.per_second_of_ten)
            .sum();
        let title = format!(
            " most dropped, sampled over {} s ",
            sample.top.sampled_seconds
        );
        self.dropped(
            Pane::Sources,
            title,
            &sample.top.sources,
            (self.sources_from, drops_per_second),
            sources.width,
        )
        .render(sources, buffer);
        self.dropped(
            Pane::Prefixes,
            " by /24 and /48, sampled ".to_owned(),
            &sample.top.prefixes,
            (self.prefixes_from, drops_per_second),
            prefixes.width,
        )
        .render(prefixes, buffer);
    }
}

fn number(value: f64) -> Line<'static> {
    Line::raw(compact(value)).right_aligned()
}
