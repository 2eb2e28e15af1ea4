//! Entries into a file.

use std::io::{self, Write};

use serde_json::Value;

use super::{
    Format,
    entry::{Entry, FIELDS},
};

/// Writes the accounts; [`super::read()`] makes the same ones of it.
///
/// # Errors
/// If `output` can't be written.
pub fn write(entries: &[Entry], format: Format, output: &mut dyn Write) -> io::Result<()> {
    match format {
        Format::Csv => write_csv(entries, output),
        Format::Json => write_json(entries, output),
    }
}

fn write_csv(entries: &[Entry], output: &mut dyn Write) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(output);
    writer.write_record(FIELDS)?;
    for entry in entries {
        let fields = entry.fields();
        let cells = FIELDS.map(|field| {
            fields
                .get(field)
                .map_or_else(String::new, |v| cell(field, v))
        });
        writer.write_record(cells)?;
    }
    writer.flush()
}

fn cell(field: &str, value: &Value) -> String {
    let joined = |separator: &str| {
        let texts = value.as_array().into_iter().flatten();
        let texts: Vec<_> = texts.filter_map(Value::as_str).collect();
        texts.join(separator)
    };
    match (field, value) {
        ("sources" | "groups", _) => joined(" "),
        ("keys", _) => joined("\n"),
        (_, Value::String(text)) => text.clone(),
        (_, value) => value.to_string(),
    }
}

/// One account a line.
fn write_json(entries: &[Entry], output: &mut dyn Write) -> io::Result<()> {
    output.write_all(b"[")?;
    for (index, entry) in entries.iter().enumerate() {
        let before = if index == 0 { "\n" } else { ",\n" };
        write!(output, "{before}{}", Value::from(entry.fields()))?;
    }
    output.write_all(b"\n]\n")
}
