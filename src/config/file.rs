//! Reading the TOML file, field by field, so that every fault is told and not just the first.

use std::path::Path;

use crate::config::DEFAULT_FILE;
use crate::rate_limit::limits::{Limits, ResolvedLimits};

/// A table of the file. Fields are taken out; what is left at the end was not known.
pub struct Table {
    at: String,
    fields: toml::Table,
}

/// Reads the file that was named, or the default one if it is there.
pub fn read(named: Option<&Path>, faults: &mut Vec<String>) -> Table {
    let file = named.unwrap_or(Path::new(DEFAULT_FILE));
    let fields = match std::fs::read_to_string(file) {
        Ok(text) => text.parse::<toml::Table>().unwrap_or_else(|cause| {
            faults.push(format!("{}: {}", file.display(), cause.to_string().trim_end()));
            toml::Table::new()
        }),
        Err(cause) => {
            if named.is_some() || cause.kind() != std::io::ErrorKind::NotFound {
                faults.push(format!("{}: {cause}", file.display()));
            }
            toml::Table::new()
        }
    };
    Table { at: String::new(), fields }
}

impl Table {
    /// The path of this table in the file.
    pub fn at(&self) -> &str {
        &self.at
    }

    fn path(&self, key: &str) -> String {
        if self.at.is_empty() { key.to_owned() } else { format!("{}.{key}", self.at) }
    }

    /// Text.
    pub fn text(&mut self, key: &str, faults: &mut Vec<String>) -> Option<String> {
        match self.fields.remove(key)? {
            toml::Value::String(text) => Some(text),
            other => {
                faults.push(format!("{}: expected a string, found {other}", self.path(key)));
                None
            }
        }
    }

    /// A whole number.
    pub fn number(&mut self, key: &str, faults: &mut Vec<String>) -> Option<u64> {
        let value = self.fields.remove(key)?;
        let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
        if number.is_none() {
            faults.push(format!("{}: expected a whole number, found {value}", self.path(key)));
        }
        number
    }

    /// Yes or no.
    pub fn flag(&mut self, key: &str, faults: &mut Vec<String>) -> Option<bool> {
        let value = self.fields.remove(key)?;
        if value.as_bool().is_none() {
            faults.push(format!("{}: expected true or false, found {value}", self.path(key)));
        }
        value.as_bool()
    }

    /// A list of texts.
    pub fn list(&mut self, key: &str, faults: &mut Vec<String>) -> Vec<String> {
        let Some(value) = self.fields.remove(key) else { return Vec::new() };
        let texts = value.as_array().and_then(|items| {
            items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        texts.unwrap_or_else(|| {
            faults.push(format!("{}: expected a list of strings, found {value}", self.path(key)));
            Vec::new()
        })
    }

    /// The names of the fields that nobody took yet.
    pub fn names(&self) -> Vec<String> {
        self.fields.keys().cloned().collect()
    }

    /// A table.
    pub fn table(&mut self, key: &str, faults: &mut Vec<String>) -> Option<Table> {
        let at = self.path(key);
        match self.fields.remove(key)? {
            toml::Value::Table(fields) => Some(Table { at, fields }),
            other => {
                faults.push(format!("{at}: expected a table, found {other}"));
                None
            }
        }
    }

    /// A list of tables.
    pub fn tables(&mut self, key: &str, faults: &mut Vec<String>) -> Vec<Table> {
        let Some(value) = self.fields.remove(key) else { return Vec::new() };
        let toml::Value::Array(items) = value else {
            faults.push(format!("{}: expected [[{key}]] tables", self.path(key)));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (at, item) in items.into_iter().enumerate() {
            let at = format!("{key}[{at}]");
            match item {
                toml::Value::Table(fields) => tables.push(Table { at, fields }),
                other => faults.push(format!("{at}: expected a table, found {other}")),
            }
        }
        tables
    }

    /// Limits: a table, or `"none"`.
    pub fn limits(
        &mut self,
        key: &str,
        defaults: &ResolvedLimits,
        faults: &mut Vec<String>,
    ) -> ResolvedLimits {
        let fields = match self.fields.remove(key) {
            None => return *defaults,
            Some(toml::Value::String(text)) if text == "none" => return ResolvedLimits::NONE,
            Some(toml::Value::Table(fields)) => fields,
            Some(other) => {
                faults.push(format!("{}: expected a table or \"none\", found {other}", self.path(key)));
                return *defaults;
            }
        };
        let fields: serde_json::Map<_, _> = fields
            .into_iter()
            .map(|(name, value)| match value {
                toml::Value::Integer(number) => (name, number.into()),
                toml::Value::String(text) if text == "none" => (name, serde_json::Value::Null),
                other => (name, other.to_string().into()),
            })
            .collect();
        match Limits::parse(&fields.into(), key) {
            Ok(limits) => limits.over(defaults),
            Err(invalid) => {
                faults.push(invalid.message);
                *defaults
            }
        }
    }

    /// Faults for what nobody took.
    pub fn unknown(&self) -> Vec<String> {
        self.fields.keys().map(|key| format!("{}: is not known", self.path(key))).collect()
    }
}
