//! Answers as people read them: aligned tables, `key: value` lines, and what is left to page through.

use std::io::{ErrorKind, Write};

use serde_json::Value;

use super::Plan;
use super::client::{Call, Reply};

/// Follows a secret that was just made.
pub(super) const SHOWN_ONCE: &str = "\nkeep the key: it is not shown again\n";

/// Writes text to stdout, ending in a line break. A reader that has seen enough (`| head`) is no error.
pub(super) fn print(text: &str) -> std::io::Result<()> {
    match writeln!(std::io::stdout().lock(), "{}", text.trim_end_matches('\n')) {
        Err(fault) if fault.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Text of others, made safe for a terminal: line breaks stay, other control characters are shown.
pub(super) fn printable(text: &str) -> String {
    let shown = |letter: char| match letter {
        '\n' | '\t' => letter.to_string(),
        _ if letter.is_control() => letter.escape_default().to_string(),
        _ => letter.to_string(),
    };
    text.replace("\r\n", "\n").chars().map(shown).collect()
}

/// One JSON value as text: lists with commas, objects as `name=value`, nothing as `-`.
pub(super) fn text(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => printable(text),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            // Within an object null was said on purpose: no limit, say.
            let inner = |value: &Value| if value.is_null() { "none".to_owned() } else { text(value) };
            let pair = |(name, value): (&String, &Value)| format!("{}={}", printable(name), inner(value));
            fields.iter().map(pair).collect::<Vec<_>>().join(" ")
        }
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => number.to_string(),
    };
    if text.is_empty() { "-".to_owned() } else { text }
}

/// The rows of a list: the answer itself, or the one array within it.
pub(super) fn rows(value: &Value) -> &[Value] {
    let array = value.as_array().or_else(|| value.as_object()?.values().find_map(Value::as_array));
    array.map(Vec::as_slice).unwrap_or_default()
}

/// A table of these fields of each row; a field that no row has is no column.
pub(super) fn table(fields: &[&str], rows: &[Value]) -> String {
    let present = |field: &&&str| rows.iter().any(|row| text(&row[**field]) != "-");
    let fields: Vec<&str> = fields.iter().filter(present).copied().collect();
    let titles: Vec<String> = fields.iter().map(|field| field.to_uppercase().replace('_', " ")).collect();
    let cells = |row: &Value| fields.iter().map(|field| text(&row[*field])).collect();
    grid(&titles, &rows.iter().map(cells).collect::<Vec<_>>())
}

/// Aligned columns under their titles; columns of numbers stand to the right.
pub(super) fn grid(titles: &[String], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return "(none)\n".to_owned();
    }
    let one_line = |cell: &String| cell.replace(['\n', '\t'], " ");
    let lines: Vec<Vec<String>> = std::iter::once(titles)
        .chain(rows.iter().map(Vec::as_slice))
        .map(|row| row.iter().map(one_line).collect())
        .collect();
    let columns: Vec<(usize, bool)> = (0..titles.len())
        .map(|column| {
            let width = lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
            let is_number = |line: &Vec<String>| line[column] == "-" || line[column].parse::<f64>().is_ok();
            (width, lines.iter().skip(1).all(is_number))
        })
        .collect();
    let mut page = String::new();
    for line in &lines {
        let padded = line.iter().zip(&columns).map(|(cell, (width, number))| {
            if *number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        page.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        page.push('\n');
    }
    page
}

/// One thing as `key: value` lines: the named fields first, in this order, then all others.
pub(super) fn details(first: &[&str], value: &Value) -> String {
    let Some(object) = value.as_object() else { return text(value) };
    let named = first.iter().filter_map(|name| Some((*name, object.get(*name)?)));
    let others = object.iter().map(|(name, value)| (name.as_str(), value));
    let others = others.filter(|(name, _)| !first.contains(name));
    let pairs: Vec<(String, String)> =
        named.chain(others).map(|(name, value)| (printable(name).replace('_', " "), text(value))).collect();
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default() + 1;
    let mut page = String::new();
    for (name, value) in pairs {
        let value = value.trim_end().replace('\n', &format!("\n{:width$} ", ""));
        page.push_str(format!("{:<width$} {value}", format!("{name}:")).trim_end());
        page.push('\n');
    }
    page
}

/// Says after a list that there is more of it, and how to see it. `next` is the flag of the next page.
pub(super) fn more(reply: &Reply, offset: u64, next: &str) -> String {
    let shown = rows(&reply.value).len() as u64;
    let total = reply.value["total"].as_u64();
    match (reply.value["has_more"].as_bool(), total) {
        (Some(true), _) => format!("\n{shown} shown, there are more: add {next}\n"),
        (_, Some(total)) if shown > 0 && offset + shown < total => {
            format!("\n{} to {} of {total}: add {next} for the next ones\n", offset + 1, offset + shown)
        }
        (_, Some(total)) if shown == 0 && total > 0 => {
            format!("\nnothing from {offset} on: there are {total}\n")
        }
        _ => String::new(),
    }
}

/// A list that knows how many items there are in all.
pub(super) fn pages(call: Call, columns: &'static [&str], limit: Option<u64>, offset: Option<u64>) -> Plan {
    let skipped = offset.unwrap_or_default();
    Plan::new(call.query("limit", limit).query("offset", offset), move |reply| {
        let shown = rows(&reply.value);
        let next = format!("--offset {}", skipped + shown.len() as u64);
        table(columns, shown) + &more(reply, skipped, &next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_is_aligned_with_its_numbers_to_the_right() {
        let rows =
            [json!({ "id": "a", "balance": "5.00", "x": null }), json!({ "id": "böb", "balance": "15.00" })];
        assert_eq!(table(&["id", "balance", "x"], &rows), "ID   BALANCE\na       5.00\nböb    15.00\n");
        assert_eq!(table(&["id"], &[]), "(none)\n");
    }

    #[test]
    fn details_name_every_field_and_indent_further_lines() {
        let agent =
            json!({ "limits": { "a": null }, "long_name": "one\ntwo", "name": "n", "zeta": [1, "b"] });
        let page = "name:      n\nlimits:    a=none\nlong name: one\n           two\nzeta:      1, b\n";
        assert_eq!(details(&["name", "absent"], &agent), page);
    }

    #[test]
    fn others_cannot_move_the_cursor() {
        assert_eq!(printable("a\u{1b}[2Jb\r\nc"), "a\\u{1b}[2Jb\nc");
        assert!(!table(&["id"], &[json!({ "id": "a\nb\u{9b}" })]).contains(['\u{9b}', '\u{1b}']));
    }

    #[test]
    fn a_list_is_found_under_any_name() {
        assert_eq!(rows(&json!([1, 2])).len(), 2);
        assert_eq!(rows(&json!({ "total": 1, "agents": [1] })).len(), 1);
        assert!(rows(&json!({ "total": 0 })).is_empty());
    }

    #[test]
    fn a_paged_list_says_so() {
        let of = |value| Reply::of(200, value);
        assert!(more(&of(json!({ "a": [1], "has_more": true })), 0, "--after 9").contains("--after 9"));
        assert_eq!(more(&of(json!({ "a": [1], "has_more": false })), 0, ""), "");
        let page = more(&of(json!({ "a": [1, 2], "total": 7 })), 2, "--offset 4");
        assert_eq!(page, "\n3 to 4 of 7: add --offset 4 for the next ones\n");
        assert_eq!(more(&of(json!({ "a": [1], "total": 1 })), 0, ""), "");
    }
}
