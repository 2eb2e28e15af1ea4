//! A file's text into entries, with the place of everything that is wrong.

use std::{collections::HashMap, sync::Arc};

use csv::{ReaderBuilder, StringRecord};
use serde_json::{Map, Value};

use super::{
    Fault, Format,
    entry::{Entry, FieldFault},
};
use crate::auth::public_key::KeyRules;

/// An entry and where it stands in the file.
#[derive(Debug, Clone)]
pub struct Located {
    pub entry: Entry,
    line: u64,
    places: Places,
}

/// Line and column of each name.
type Names = HashMap<String, (u64, u64)>;

/// Where fields stand.
#[derive(Debug, Clone)]
enum Places {
    /// Number of the cell, by the name of its column.
    Columns(Arc<HashMap<String, u64>>),
    Names(Names),
}

impl Located {
    /// What is wrong with the entry's field.
    pub fn fault(&self, field: &str, problem: impl Into<String>) -> Fault {
        fault_at(self.line, &self.places, field, problem.into())
    }
}

/// Reads accounts, each name once. `rules` say which keys they may have.
///
/// # Errors
/// Every fault, in the file's order; a syntax error alone, since nothing after it can be trusted.
pub fn read(bytes: &[u8], format: Format, rules: KeyRules) -> Result<Vec<Located>, Vec<Fault>> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let (line, column) = place_of(before);
        vec![Fault {
            line,
            column,
            problem: "not UTF-8".to_owned(),
        }]
    })?;
    // Spreadsheets begin a file so.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut faults = Vec::new();
    let entries = match format {
        Format::Csv => read_csv(text, rules, &mut faults),
        Format::Json => read_json(text, rules, &mut faults),
    };
    let mut seen: HashMap<String, u64> = HashMap::new();
    for located in &entries {
        if let Some(line) = seen.insert(located.entry.name.to_string(), located.line) {
            let problem = format!("{} is in line {line} already", located.entry.name);
            faults.push(located.fault("name", problem));
        }
    }
    if faults.is_empty() {
        Ok(entries)
    } else {
        faults.sort();
        Err(faults)
    }
}

fn read_csv(text: &str, rules: KeyRules, faults: &mut Vec<Fault>) -> Vec<Located> {
    let mut reader = ReaderBuilder::new().from_reader(text.as_bytes());
    let mut entries = Vec::new();
    let headers = match reader.headers() {
        Ok(headers) => headers.clone(),
        Err(error) => {
            faults.push(csv_fault(&error));
            return entries;
        }
    };
    let columns = Arc::new(columns(&headers, faults));
    if !faults.is_empty() {
        return entries;
    }
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                faults.push(csv_fault(&error));
                return entries;
            }
        };
        let line = record.position().map_or(0, csv::Position::line);
        let cells = headers.iter().zip(&record);
        let fields = cells
            .filter_map(|(column, cell)| Some((column.to_owned(), cell_value(column, cell)?)))
            .collect();
        let places = Places::Columns(Arc::clone(&columns));
        let entry = Entry::from_fields(&fields, rules);
        take(entry, line, places, &mut entries, faults);
    }
    entries
}

/// The cells' numbers by the names of their columns.
fn columns(headers: &StringRecord, faults: &mut Vec<Fault>) -> HashMap<String, u64> {
    let mut columns = HashMap::new();
    for (number, header) in (1..).zip(headers) {
        let problem = if !super::FIELDS.contains(&header) {
            format!(
                "{header:?} is not a column; known are {}",
                super::FIELDS.join(", ")
            )
        } else if columns.insert(header.to_owned(), number).is_some() {
            format!("a second column {header}")
        } else {
            continue;
        };
        faults.push(Fault {
            line: 1,
            column: number,
            problem,
        });
    }
    columns
}

/// What a cell says, in the types of JSON; an empty one says nothing. What does not fit stays text, which is found later.
fn cell_value(column: &str, cell: &str) -> Option<Value> {
    if cell.is_empty() {
        return None;
    }
    let text = || Value::from(cell);
    Some(match column {
        "disabled" => cell.parse::<bool>().map_or_else(|_| text(), Value::from),
        "idle_days" | "max_sessions" | "read_rate" | "write_rate" => {
            cell.parse::<u64>().map_or_else(|_| text(), Value::from)
        }
        "sources" | "groups" => cell.split_whitespace().collect::<Vec<_>>().into(),
        "keys" => {
            let lines = cell.lines().map(str::trim);
            let lines = lines.filter(|line| !line.is_empty());
            lines.collect::<Vec<_>>().into()
        }
        "mounts" => serde_json::from_str(cell).unwrap_or_else(|_| text()),
        _ => text(),
    })
}

fn csv_fault(error: &csv::Error) -> Fault {
    Fault {
        line: error.position().map_or(1, csv::Position::line),
        column: 1,
        problem: error.to_string(),
    }
}

fn read_json(text: &str, rules: KeyRules, faults: &mut Vec<Fault>) -> Vec<Located> {
    let mut entries = Vec::new();
    let objects: Vec<Map<String, Value>> = match serde_json::from_str(text) {
        Ok(objects) => objects,
        Err(error) => {
            faults.push(Fault {
                line: u64::try_from(error.line()).unwrap_or(u64::MAX),
                // 0 where a line has just begun.
                column: u64::try_from(error.column()).unwrap_or(u64::MAX).max(1),
                problem: error.to_string(),
            });
            return entries;
        }
    };
    for (fields, (start, names)) in objects.iter().zip(places_in(text.as_bytes())) {
        let entry = Entry::from_fields(fields, rules);
        take(entry, start, Places::Names(names), &mut entries, faults);
    }
    entries
}

/// Of a list of objects that is known to be JSON: the line of each object, and where the names of its fields are.
fn places_in(text: &[u8]) -> Vec<(u64, Names)> {
    let mut objects: Vec<(u64, Names)> = Vec::new();
    let (mut line, mut line_start, mut depth) = (1, 0, 0_u32);
    let mut string: Option<usize> = None;
    let mut last: Option<(usize, usize, u64, u64)> = None;
    let mut escaped = false;
    for (index, &byte) in text.iter().enumerate() {
        if let Some(start) = string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    let column = u64::try_from(start - line_start).unwrap_or(u64::MAX);
                    last = Some((start, index, line, column));
                    string = None;
                }
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => string = Some(index + 1),
            b'{' | b'[' => {
                depth += 1;
                if byte == b'{' && depth == 2 {
                    objects.push((line, Names::new()));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'\n' => {
                line += 1;
                line_start = index + 1;
            }
            b':' if depth == 2 => {
                let name = last
                    .and_then(|(start, end, ..)| std::str::from_utf8(text.get(start..end)?).ok());
                if let (Some(name), Some((.., line, column)), Some((_, names))) =
                    (name, last, objects.last_mut())
                {
                    names.insert(name.to_owned(), (line, column));
                }
            }
            _ => {}
        }
    }
    objects
}

fn take(
    entry: Result<Entry, Vec<FieldFault>>,
    line: u64,
    places: Places,
    entries: &mut Vec<Located>,
    faults: &mut Vec<Fault>,
) {
    match entry {
        Ok(entry) => entries.push(Located {
            entry,
            line,
            places,
        }),
        Err(wrong) => {
            for (field, problem) in wrong {
                faults.push(fault_at(line, &places, &field, problem));
            }
        }
    }
}

/// `field` may go on inside of a value: `mounts[0].at`.
fn fault_at(line: u64, places: &Places, field: &str, problem: String) -> Fault {
    let end = field.find(['[', '.']).unwrap_or(field.len());
    let top = field.get(..end).unwrap_or(field);
    let (line, column) = match places {
        Places::Columns(columns) => (line, columns.get(top).copied().unwrap_or(1)),
        Places::Names(names) => names.get(top).copied().unwrap_or((line, 1)),
    };
    Fault {
        line,
        column,
        problem: format!("{field}: {problem}"),
    }
}

/// Line and column of what comes after `before`.
fn place_of(before: &[u8]) -> (u64, u64) {
    let lines = before.iter().filter(|&&byte| byte == b'\n').count();
    let column = before
        .iter()
        .rev()
        .take_while(|&&byte| byte != b'\n')
        .count();
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX).saturating_add(1);
    (number(lines), number(column))
}
