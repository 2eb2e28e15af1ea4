//! `top`: rates by reason and the most dropped sources, once a second.

mod head;
mod text;
mod view;

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use ratatui::{
    DefaultTerminal,
    buffer::Buffer,
    crossterm::event::{self, Event, KeyEventKind},
    layout::Rect,
    widgets::Widget as _,
};
use serde::{Deserialize, Serialize};

use self::view::View;
use crate::{
    answers::recent::TopReply,
    cli::TopArguments,
    control::{StatusReply, client::Client},
};

const REFRESH: Duration = Duration::from_secs(1);
/// After so long without an answer the screen says so.
const PATIENCE: Duration = Duration::from_secs(2);
/// The size of a screen where there is none.
const PLAIN: (u16, u16) = (80, 24);

/// All that a screen shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sample {
    status: StatusReply,
    top: TopReply,
}

pub(super) async fn top(client: &Client, arguments: &TopArguments, json: bool) -> Result<String> {
    if json {
        return lines(client, arguments.once).await;
    }
    if arguments.once {
        let mut view = View::default();
        view.show(Ok(ask(client).await?));
        return Ok(plain(&view));
    }
    if !io::stdout().is_terminal() {
        bail!("standard output is not a terminal: use --once for one frame, or --json");
    }
    let mut terminal = ratatui::try_init()?;
    let ended = live(client, &mut terminal).await;
    ratatui::try_restore()?;
    ended.map(|()| String::new())
}

async fn ask(client: &Client) -> Result<Sample> {
    let both = async {
        Ok(Sample {
            status: client.get("/v1/status").await?,
            top: client.get("/v1/top").await?,
        })
    };
    match tokio::time::timeout(PATIENCE, both).await {
        Ok(sample) => sample,
        Err(_) => bail!("no answer for {} s", PATIENCE.as_secs()),
    }
}

async fn lines(client: &Client, once: bool) -> Result<String> {
    let mut clock = tokio::time::interval(REFRESH);
    loop {
        clock.tick().await;
        let mut line = serde_json::to_string(&ask(client).await?)?;
        line.push('\n');
        if once {
            return Ok(line);
        }
        match io::stdout().write_all(line.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(String::new()),
            written => written?,
        }
    }
}

async fn live(client: &Client, terminal: &mut DefaultTerminal) -> Result<()> {
    let mut view = View::default();
    loop {
        if !view.is_paused() {
            view.show(ask(client).await.map_err(|error| format!("{error:#}")));
        }
        let next = Instant::now() + REFRESH;
        loop {
            terminal.draw(|frame| frame.render_widget(&view, frame.area()))?;
            // Nothing else waits for this thread: the connection rests between two questions.
            if !event::poll(next.saturating_duration_since(Instant::now()))? {
                break;
            }
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
                && view.key(key).is_break()
            {
                return Ok(());
            }
        }
    }
}

/// One frame as text, in the size of the terminal if there is one.
fn plain(view: &View) -> String {
    let size = io::stdout()
        .is_terminal()
        .then(|| ratatui::crossterm::terminal::size().ok())
        .flatten();
    let (width, height) = size.unwrap_or(PLAIN);
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    view.render(area, &mut buffer);
    characters(&buffer)
}

/// The characters of a buffer, without the blanks at the ends of its lines.
fn characters(buffer: &Buffer) -> String {
    let mut text = String::new();
    for row in buffer.area.rows() {
        let line: String = row
            .columns()
            .filter_map(|cell| buffer.cell((cell.x, cell.y)))
            .map(|cell| cell.symbol())
            .collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests;
