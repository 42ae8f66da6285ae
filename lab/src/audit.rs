//! What the API server was asked to write, by whom, and what it answered: read from its audit log.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
    time::Duration,
};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    cluster::Cluster,
    error::{Error, Result},
};

/// A place in the audit log.
#[derive(Clone, Copy, Debug)]
pub struct Mark(u64);

/// A request that the API server has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who made it: the name of a service account, or of a user.
    pub user: String,
    /// The pod that it came from, where it came from one.
    pub pod: Option<String>,
    /// `patch` and its like.
    pub verb: String,
    /// `tcpclosenodes`, or `tcpclosenodes/status`.
    pub resource: String,
    /// The object; empty for one that was created under a name of the server's choice.
    pub name: String,
    /// The status code of the answer.
    pub code: u16,
    /// From its arrival at the API server to the end of the answer.
    pub took: Duration,
}

impl Request {
    /// Whether it asked for a change.
    pub fn is_write(&self) -> bool {
        self.verb != "get"
    }

    /// Whether the API server did what was asked.
    pub fn was_taken(&self) -> bool {
        self.code < 300
    }
}

/// How many requests of each kind there were, for people: `operator patch tcpclosenodes 3`.
pub(crate) struct Counts<'a>(pub &'a [Request]);

impl fmt::Display for Counts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts = BTreeMap::<_, usize>::new();
        for Request { user, verb, resource, code, .. } in self.0 {
            let user = user.strip_prefix("tcp-close-tuning-").unwrap_or(user);
            *counts.entry((user, verb, resource, code)).or_default() += 1;
        }
        for (at, ((user, verb, resource, code), count)) in counts.into_iter().enumerate() {
            let refused = if *code < 300 { String::new() } else { format!(" answered {code}") };
            write!(f, "{}{user} {verb} {resource}{refused} {count}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// A line of the log, as far as it is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    user: User,
    verb: String,
    object_ref: Object,
    #[serde(default)]
    response_status: Status,
    request_received_timestamp: Timestamp,
    stage_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct User {
    username: String,
    #[serde(default)]
    extra: Value,
}

#[derive(Deserialize)]
struct Object {
    resource: String,
    #[serde(default)]
    subresource: String,
    #[serde(default)]
    name: String,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
}

impl From<Line> for Request {
    fn from(line: Line) -> Self {
        let Line { user, verb, object_ref, response_status, .. } = line;
        let Object { resource, subresource, name } = object_ref;
        let took = line.stage_timestamp.duration_since(line.request_received_timestamp);
        let slash = if subresource.is_empty() { "" } else { "/" };
        let pod = &user.extra["authentication.kubernetes.io/pod-name"][0];
        Self {
            user: user.username.rsplit(':').next().unwrap_or_default().to_owned(),
            pod: pod.as_str().map(ToOwned::to_owned),
            verb,
            resource: format!("{resource}{slash}{subresource}"),
            name,
            code: response_status.code,
            took: took.unsigned_abs(),
        }
    }
}

impl Cluster {
    /// The file that the API server writes a line to for each request that it has answered.
    pub(crate) fn audit_log(&self) -> PathBuf {
        self.dir().join("log/audit.log")
    }

    /// The present end of the audit log.
    pub fn audit_mark(&self) -> Result<Mark> {
        let path = self.audit_log();
        let log = path.metadata().map_err(Error::file("look at", &path))?;
        Ok(Mark(log.len()))
    }

    /// The requests that were answered since.
    pub fn audited_since(&self, mark: Mark) -> Result<Vec<Request>> {
        let path = self.audit_log();
        let mut text = String::new();
        let read = |mut log: File| {
            log.seek(SeekFrom::Start(mark.0))?;
            log.read_to_string(&mut text)
        };
        File::open(&path).and_then(read).map_err(Error::file("read", &path))?;
        // The last line may be half written.
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.map(parse).collect()
    }
}

fn parse(line: &str) -> Result<Request> {
    let unclear = |error: serde_json::Error| Error::Unclear {
        what: format!("a line of the audit log ({})", line.trim()),
        why: error.to_string(),
    };
    serde_json::from_str::<Line>(line).map(Request::from).map_err(unclear)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_says_who_asked_for_what_and_what_became_of_it() {
        let line = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"1","stage":"ResponseComplete","verb":"patch","user":{"username":"system:serviceaccount:tcpclose-system:tcp-close-tuning-operator","extra":{"authentication.kubernetes.io/pod-name":["operator-1"]}},"objectRef":{"resource":"tcpclosetunings","name":"web","apiGroup":"tcpclose.dev","subresource":"status"},"responseStatus":{"metadata":{},"status":"Failure","code":409},"requestReceivedTimestamp":"2026-11-29T21:10:00.004100Z","stageTimestamp":"2026-11-29T21:10:00.012000Z"}"#;
        let request = parse(line).unwrap();
        assert_eq!(
            (request.user.as_str(), request.pod.as_deref()),
            ("tcp-close-tuning-operator", Some("operator-1"))
        );
        assert!(request.is_write() && !request.was_taken());
        assert_eq!(request.took, Duration::from_micros(7900));
        assert_eq!(Counts(&[request]).to_string(), "operator patch tcpclosetunings/status answered 409 1");
    }
}
