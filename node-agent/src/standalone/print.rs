//! What a person or a program reads: a table, JSON or YAML, with the names of a node's status.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use clap::ValueEnum;
use crds::node::{NodeFacts, Sockets, SysctlStatus};
use serde::Serialize;

use super::pods::PodsSeen;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// For both.
    Yaml,
}

/// What was found out about sysctls.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) node: NodeFacts,
    pub(super) sysctls: Vec<Row>,
    /// Tunings that only observe.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) observe: Vec<Observed>,
    /// Why nothing is written, where nothing may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) obstacle: Option<String>,
    pub(super) notes: Vec<String>,
}

/// A sysctl, and where its value is ordered.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) at: Option<String>,
    #[serde(flatten)]
    pub(super) status: SysctlStatus,
}

/// What a tuning that only observes would do.
#[derive(Debug, Serialize)]
pub(super) struct Observed {
    pub(super) tuning: String,
    pub(super) sysctls: Vec<Row>,
}

/// What there is to see without any order.
#[derive(Debug, Serialize)]
pub(super) struct Observation {
    pub(super) node: NodeFacts,
    pub(super) sysctls: Vec<Seen>,
    /// Absent means unknown, never 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sockets: Option<Sockets>,
    pub(super) pods: PodsSeen,
}

/// What the kernel holds.
#[derive(Debug, Serialize)]
pub(super) struct Seen {
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) live: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
}

/// Something that has a form for people beside that for programs.
pub(super) trait Printed: Serialize {
    /// The form for people.
    fn table(&self) -> String;
}

/// Prints a result to stdout.
pub(super) fn print(result: &impl Printed, format: Format) -> io::Result<()> {
    let text = match format {
        Format::Table => result.table(),
        Format::Json => serde_json::to_string_pretty(result)? + "\n",
        Format::Yaml => serde_yaml::to_string(result).map_err(io::Error::other)?,
    };
    io::stdout().write_all(text.as_bytes())
}

impl Printed for Report {
    fn table(&self) -> String {
        let mut text = String::new();
        let observed = self.observe.iter().flat_map(|observed| {
            let tuning = format!("{} (Observe)", observed.tuning);
            observed.sysctls.iter().map(move |row| (row, tuning.clone()))
        });
        let ordered = self.sysctls.iter().map(|row| (row, row.status.tuning.clone().unwrap_or_default()));
        let rows: Vec<_> = ordered.chain(observed).collect();
        if !rows.is_empty() {
            let head = ["KEY", "NOW", "ORDERED", "BEFORE", "STATE", "TUNING"].map(str::to_owned);
            let lines = rows.iter().map(|(row, tuning)| {
                let SysctlStatus { name, state, live, desired, baseline, .. } = &row.status;
                [
                    name.clone(),
                    number(*live),
                    number(*desired),
                    number(*baseline),
                    state.clone(),
                    tuning.clone(),
                ]
            });
            text += &aligned(&[head].into_iter().chain(lines).collect::<Vec<_>>());
            text.push('\n');
        }
        for (row, _) in &rows {
            self.explain(row, &mut text);
        }
        for note in &self.notes {
            line(&mut text, format_args!("note: {note}"));
        }
        text
    }
}

impl Report {
    /// What a person should know of a sysctl, line by line. Why nothing at all is written is said elsewhere, once.
    fn explain(&self, row: &Row, text: &mut String) {
        let SysctlStatus { name, state, rule, message, remarks, .. } = &row.status;
        let at = row.at.as_ref().unwrap_or(name);
        if let Some(message) = message.as_ref().filter(|message| self.obstacle.as_ref() != Some(message)) {
            let rule = rule.as_ref().map(|rule| format!(" ({rule})")).unwrap_or_default();
            line(text, format_args!("{at}: {state}{rule}: {message}"));
        }
        for remark in remarks {
            line(text, format_args!("{at}: note ({}): {}", remark.rule, remark.message));
        }
    }
}

impl Printed for Observation {
    fn table(&self) -> String {
        let head = ["KEY", "NOW", ""].map(str::to_owned);
        let rows = self.sysctls.iter().map(|sysctl| {
            [sysctl.name.clone(), number(sysctl.live), sysctl.message.clone().unwrap_or_default()]
        });
        let mut text = aligned(&[head].into_iter().chain(rows).collect::<Vec<_>>());
        text.push('\n');
        text + &counts(&self.sockets) + &self.pods.table()
    }
}

/// Counts under the names of a status, which are those that the type has when it is written.
pub(super) fn counts(sockets: &impl Serialize) -> String {
    let counts = serde_yaml::to_value(sockets).unwrap_or_default();
    let head = ["SOCKETS", "COUNT"].map(str::to_owned);
    let rows = counts.as_mapping().into_iter().flatten().map(|(name, count)| {
        [name, count].map(|value| serde_yaml::to_string(value).unwrap_or_default().trim().to_owned())
    });
    aligned(&[head].into_iter().chain(rows).collect::<Vec<_>>())
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}

fn number(value: Option<i64>) -> String {
    value.map_or("-".into(), |value| value.to_string())
}

/// Columns as wide as their longest cell, two blanks apart; nothing follows the last one.
pub(super) fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  "));
        line(&mut text, format_args!("{}", cells.collect::<String>().trim_end()));
    }
    text
}
