//! The report as one HTML file that needs nothing else.

use std::fmt::Write as _;

use super::{
    Listing, Report, Tally, Totals,
    chart::{self, ChartError},
};
use crate::text::{seconds, sentence, size};

const STYLE: &str = "body{font:14px/1.4 sans-serif;margin:2em auto;max-width:960px;color:#222}\
table{border-collapse:collapse;margin:.5em 0 1.5em}td,th{border:1px solid #ccc;padding:2px 8px;text-align:left;\
vertical-align:top;overflow-wrap:anywhere}td.n,th.n{text-align:right}h2{margin-top:2em}.note{color:#666}svg{max-width:100%}";

/// Nothing but this style and the pictures: no script, no request, whatever a peer wrote.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

/// A cell of a table.
enum Cell<'a> {
    Text(&'a str),
    Number(u64),
    Size(u64),
}

impl Report {
    /// One file with its pictures. Peers' texts are escaped.
    ///
    /// # Errors
    /// If a picture can't be drawn.
    pub fn html(&self) -> Result<String, ChartError> {
        let mut out = String::new();
        let title = format!(
            "Activity from {} to {}",
            seconds(&self.from),
            seconds(&self.until)
        );
        let _ = write!(
            out,
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\
             <title>{0}</title><style>{STYLE}</style></head><body>\n<h1>{0}</h1>\n",
            escape(&title)
        );
        let _ = writeln!(
            out,
            "<p>Days and hours are those of {}; business hours: {}.</p>",
            escape(&self.zone),
            escape(&self.business_hours)
        );
        self.logs_table(&mut out);
        self.totals_table(&mut out);
        for (title, picture) in [
            ("Logins, failures and denials by day", chart::logins(self)?),
            ("Bytes by day", chart::transfers(self)?),
            ("Logins by weekday and hour", chart::week(self)?),
        ] {
            let _ = writeln!(out, "<h2>{title}</h2>\n{picture}");
        }
        self.relaxations_table(&mut out);
        self.people_table(&mut out);
        for (title, listing) in self.listings() {
            list(&mut out, title, listing);
        }
        for (title, tally) in self.tallies() {
            top(&mut out, title, tally);
        }
        out.push_str("</body></html>\n");
        Ok(out)
    }

    fn logs_table(&self, out: &mut String) {
        begin(out, &["log", "node", "first record", "last record", "at"]);
        for log in &self.logs {
            let Some(covered) = &log.coverage else {
                row(out, &[Cell::Text(&log.log), Cell::Text("no records")]);
                continue;
            };
            row(
                out,
                &[
                    Cell::Text(&log.log),
                    Cell::Text(&covered.node),
                    Cell::Number(covered.first_seq),
                    Cell::Number(covered.last_seq),
                    Cell::Text(&covered.last_time),
                ],
            );
        }
        out.push_str("</table>\n");
    }

    fn totals_table(&self, out: &mut String) {
        begin(out, &HEADS);
        totals(out, "all", &self.totals);
        out.push_str("</table>\n");
    }

    fn people_table(&self, out: &mut String) {
        out.push_str("<h2>People</h2>\n");
        begin(out, &HEADS);
        for (name, person) in &self.people {
            totals(out, name, person);
        }
        out.push_str("</table>\n");
        if self.people_left_out {
            out.push_str("<p class=\"note\">There are more people than this table holds.</p>\n");
        }
    }

    fn relaxations_table(&self, out: &mut String) {
        out.push_str("<h2>Relaxations</h2>\n");
        begin(
            out,
            &[
                "of",
                "what",
                "owner",
                "until",
                "because",
                "since",
                "taken back",
            ],
        );
        for relaxation in self.relaxations.all() {
            row(
                out,
                &[
                    Cell::Text(&relaxation.of),
                    Cell::Text(&relaxation.what),
                    Cell::Text(&relaxation.owner),
                    Cell::Text(&relaxation.expires),
                    Cell::Text(&relaxation.reason),
                    Cell::Text(&relaxation.since),
                    Cell::Text(relaxation.ended.as_deref().unwrap_or_default()),
                ],
            );
        }
        out.push_str("</table>\n");
        more(out, self.relaxations.left_out());
    }
}

const HEADS: [&str; 10] = [
    "",
    "connections",
    "logins",
    "failed steps",
    "denials",
    "uploads",
    "uploaded",
    "downloads",
    "downloaded",
    "off hours",
];

fn totals(out: &mut String, name: &str, totals: &Totals) {
    row(
        out,
        &[
            Cell::Text(name),
            Cell::Number(totals.connections),
            Cell::Number(totals.logins),
            Cell::Number(totals.failures),
            Cell::Number(totals.denials),
            Cell::Number(totals.uploads),
            Cell::Size(totals.upload_bytes),
            Cell::Number(totals.downloads),
            Cell::Size(totals.download_bytes),
            Cell::Number(totals.off_hours),
        ],
    );
}

fn list(out: &mut String, title: &str, listing: &Listing) {
    let all = listing.entries.len() as u64 + listing.left_out;
    let _ = writeln!(out, "<h2>{title}: {all}</h2>");
    if all == 0 {
        return;
    }
    begin(out, &["at", "record", "who", "what", "outcome", "details"]);
    for entry in &listing.entries {
        row(
            out,
            &[
                Cell::Text(&seconds(&entry.at)),
                Cell::Number(entry.seq),
                Cell::Text(&entry.who),
                Cell::Text(&entry.what),
                Cell::Text(&entry.outcome),
                Cell::Text(&entry.details),
            ],
        );
    }
    out.push_str("</table>\n");
    more(out, listing.left_out);
}

fn top(out: &mut String, title: &str, tally: &Tally) {
    let _ = writeln!(out, "<h2>{title}: {}</h2>", tally.total());
    if tally.total() == 0 {
        return;
    }
    begin(out, &["", "count"]);
    for (name, count) in tally.top() {
        row(out, &[Cell::Text(name), Cell::Number(count)]);
    }
    out.push_str("</table>\n");
    if tally.is_estimated() {
        out.push_str("<p class=\"note\">There were very many: these are the most frequent, and counts may be too high.</p>\n");
    }
}

fn more(out: &mut String, left_out: u64) {
    if left_out > 0 {
        let _ = writeln!(
            out,
            "<p class=\"note\">and {left_out} more; audit search shows all</p>"
        );
    }
}

fn begin(out: &mut String, heads: &[&str]) {
    out.push_str("<table><tr>");
    for head in heads {
        let _ = write!(out, "<th>{}</th>", escape(head));
    }
    out.push_str("</tr>\n");
}

fn row(out: &mut String, cells: &[Cell<'_>]) {
    out.push_str("<tr>");
    for cell in cells {
        let _ = match cell {
            Cell::Text(text) => write!(out, "<td>{}</td>", escape(text)),
            Cell::Number(number) => write!(out, "<td class=\"n\">{number}</td>"),
            Cell::Size(bytes) => write!(out, "<td class=\"n\">{}</td>", escape(&size(*bytes))),
        };
    }
    out.push_str("</tr>\n");
}

/// As text of HTML, also within quotes, and with everything escaped that an eye could misread.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in sentence(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
