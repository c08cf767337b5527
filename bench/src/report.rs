//! What was found: printed as it comes, and kept for the JSON file.

use serde_json::{Map, Value, json};

use crate::figures::{short, spread};

/// What was measured of one target, by round.
pub type Column = (&'static str, Vec<f64>);

/// What a row is put beside.
#[derive(Clone, Copy, Debug)]
pub enum Beside {
    /// A multiple of another column, round by round.
    Times(&'static str),
    /// The difference to another column, round by round.
    Over(&'static str),
    /// Nothing.
    Nothing,
}

/// All that was found.
pub struct Report {
    machine: Value,
    section: String,
    rows: Vec<Value>,
    checks: Vec<Value>,
    notes: Vec<Value>,
    problems: Vec<String>,
}

const LABEL: usize = 54;
const CELL: usize = 24;

impl Report {
    /// Begins with the machine.
    pub fn new(machine: Value) -> Self {
        for (name, value) in machine.as_object().into_iter().flatten() {
            println!("{name:<12} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
        Self {
            machine,
            section: String::new(),
            rows: Vec::new(),
            checks: Vec::new(),
            notes: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Begins a part of the table.
    pub fn section(&mut self, title: &str, columns: &[&str]) {
        self.section = title.to_owned();
        let cells: String = columns.iter().map(|name| format!("{name:>CELL$}")).collect();
        println!("\n{title:<LABEL$}{cells}");
    }

    /// A row of figures: medians over the rounds, with the least and the most.
    pub fn row(&mut self, what: &str, columns: &[Column], beside: Beside) {
        let cells: String = columns
            .iter()
            .map(|(_, values)| {
                let text = spread(values).map_or_else(|| "-".to_owned(), |figures| figures.to_string());
                format!("{text:>CELL$}")
            })
            .collect();
        let beside = beside_text(columns, beside);
        println!("  {what:<label$}{cells}   {}", beside.clone().unwrap_or_default(), label = LABEL - 2);
        let figures: Map<String, Value> = columns
            .iter()
            .map(|(name, values)| {
                let spread = spread(values);
                let told = json!({"median": spread.map(|one| one.median), "min": spread.map(|one| one.min),
                    "max": spread.map(|one| one.max), "rounds": values});
                ((*name).to_owned(), told)
            })
            .collect();
        self.rows.push(json!({"scenario": self.section, "what": what, "figures": figures, "beside": beside}));
    }

    /// A row with one figure of the server's.
    pub fn figure(&mut self, what: &str, value: f64) {
        self.row(what, &[("switchboard", vec![value])], Beside::Nothing);
    }

    /// Something that a reader has to know.
    pub fn note(&mut self, text: &str) {
        println!("  ({text})");
        self.notes.push(json!({"scenario": self.section, "note": text}));
    }

    /// Something that has to hold.
    pub fn check(&mut self, place: &str, what: &str, holds: bool, found: &str) {
        println!("  {} {place}: {what}: {found}", if holds { "holds " } else { "BROKEN" });
        self.checks.push(json!({"place": place, "what": what, "holds": holds, "found": found}));
        if !holds {
            self.problems.push(format!("{place}: {what}: {found}"));
        }
    }

    /// Something that went wrong, without which the figures are not what they seem.
    pub fn problem(&mut self, text: &str) {
        println!("  FAILED {text}");
        self.problems.push(format!("{}: {text}", self.section));
    }

    /// What went wrong and what did not hold.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// All of it.
    pub fn to_json(&self) -> Value {
        json!({"machine": self.machine, "rows": self.rows, "checks": self.checks, "notes": self.notes,
            "problems": self.problems})
    }
}

/// The server's column beside another one: the median of what each round says.
fn beside_text(columns: &[Column], beside: Beside) -> Option<String> {
    let column = |name: &str| columns.iter().find(|(known, _)| *known == name).map(|(_, values)| values);
    let pairs = |name: &str| -> Option<Vec<(f64, f64)>> {
        Some(column("switchboard")?.iter().copied().zip(column(name)?.iter().copied()).collect())
    };
    match beside {
        Beside::Nothing => None,
        Beside::Times(name) => {
            let ratios: Vec<f64> =
                pairs(name)?.iter().filter(|(_, base)| *base > 0.0).map(|(own, base)| own / base).collect();
            Some(format!("{} x {name}", short(spread(&ratios)?.median)))
        }
        Beside::Over(name) => {
            let more: Vec<f64> = pairs(name)?.iter().map(|(own, base)| own - base).collect();
            Some(format!("{} over {name}", short(spread(&more)?.median)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Beside, beside_text};

    #[test]
    fn columns_are_compared_round_by_round() {
        let columns = [("nginx", vec![1.0, 2.0, 4.0]), ("switchboard", vec![10.0, 10.0, 20.0])];
        assert_eq!(beside_text(&columns, Beside::Times("nginx")).as_deref(), Some("5.00 x nginx"));
        assert_eq!(beside_text(&columns, Beside::Over("nginx")).as_deref(), Some("9.00 over nginx"));
        assert_eq!(beside_text(&columns, Beside::Times("direct")), None);
    }
}
