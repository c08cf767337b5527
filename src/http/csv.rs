//! Lists as CSV (RFC 4180), for spreadsheets.

use actix_web::HttpResponse;
use serde::Serialize;
use serde_json::Value;

/// Answers rows as CSV with these columns.
pub fn respond<T: Serialize>(columns: &[&str], rows: &[T]) -> HttpResponse {
    let mut text = line(columns.iter().map(|column| (*column).to_owned()));
    for row in rows {
        let row = serde_json::to_value(row).unwrap_or_default();
        text.push_str(&line(columns.iter().map(|column| match &row[*column] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })));
    }
    HttpResponse::Ok().content_type("text/csv; charset=utf-8").body(text)
}

fn line(fields: impl Iterator<Item = String>) -> String {
    let mut line = fields.map(|field| quoted(&field)).collect::<Vec<_>>().join(",");
    line.push_str("\r\n");
    line
}

/// A field that a spreadsheet takes as text: quoted where needed, and never as a formula.
fn quoted(field: &str) -> String {
    let number = field.parse::<f64>().is_ok();
    let guard = if !number && field.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    if guard.is_empty() && !field.contains([',', '"', '\r', '\n']) {
        return field.to_owned();
    }
    format!("\"{guard}{}\"", field.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_cannot_break_its_line_or_become_a_formula() {
        assert_eq!(quoted("plain"), "plain");
        assert_eq!(quoted("-0.000000004"), "-0.000000004");
        assert_eq!(quoted("a,\"b\"\n"), "\"a,\"\"b\"\"\n\"");
        assert_eq!(quoted("=1+1"), "\"'=1+1\"");
    }
}
