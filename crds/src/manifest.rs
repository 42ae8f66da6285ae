//! The one reader of people's YAML (and JSON, which is YAML): text in; objects, and where each field is written, out.
//!
//! It is stricter than a cluster. A field that nobody knows is refused, where a server may drop it. A field that is there
//! twice is refused. So is every integer that is not plain decimal: kubectl turns `0x1F`, `010`, `1e2` and `1_000` into other
//! plain numbers before a server sees them. What a value may be comes from the schema of the
//! [definition](crate::definition::tuning); the cross-field rules of [`tcp_close::rule`] are for the caller to judge, who can
//! say with [`Located::problem`] in which line one is broken.
//!
//! Any input gets an answer, in bounded time and memory: see [`MAX_BYTES`].

mod check;
mod scalar;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use kube::Resource;
use serde_json::{Value, json};

use self::check::{Check, shown};
use self::tree::{Content, Node};
use crate::tuning::{NodeSelector, NodeSelectorRequirement};
use crate::{GROUP, TcpCloseNode, TcpCloseTuning, VERSION, definition};

/// How large a file may be.
pub const MAX_BYTES: usize = 1 << 20;
/// How many problems are told of one file.
pub const MAX_PROBLEMS: usize = 100;

/// What a file holds.
#[derive(Debug, Default)]
pub struct Manifest {
    /// The tunings, in the order of the file.
    pub tunings: Vec<Located<TcpCloseTuning>>,
    /// The objects of other groups, which nobody has looked into.
    pub skipped: Vec<Skipped>,
}

/// An object, and where it is written.
#[derive(Debug)]
pub struct Located<T> {
    /// The object, without status and without metadata but its name.
    pub object: T,
    source: String,
    fields: BTreeMap<String, Position>,
}

/// An object of another group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// `apps/v1`
    pub api_version: String,
    /// `Deployment`
    pub kind: String,
    /// The name, where one is written.
    pub name: Option<String>,
    /// Where it begins.
    pub at: Position,
}

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

/// Something that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The name of the file.
    pub source: String,
    /// The name of the object, where one is written.
    pub object: Option<String>,
    /// The path of the field in the object, `spec.sysctls.tcpFinTimeoutSeconds`; empty for an object or file as such.
    pub field: String,
    /// Where the field is written; if it is not there, where that is written which should hold it.
    pub at: Position,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl Position {
    const START: Self = Self { line: 1, column: 1 };
}

impl From<granit_parser::Marker> for Position {
    fn from(marker: granit_parser::Marker) -> Self {
        Self { line: marker.line(), column: marker.col() + 1 }
    }
}

impl<T> Located<T> {
    /// Where a field is written; if it is not there, where that is written which should hold it.
    pub fn at(&self, field: &str) -> Position {
        check::nearest(&self.fields, field)
    }
}

impl<T: Resource> Located<T> {
    /// Something that is wrong with this field.
    pub fn problem(&self, field: &str, message: String) -> Problem {
        let object = self.object.meta().name.clone();
        Problem { source: self.source.clone(), object, field: field.into(), at: self.at(field), message }
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", shown(&self.api_version), shown(&self.kind))?;
        self.name.as_ref().map_or(Ok(()), |name| write!(f, " {}", shown(name)))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.source, self.at.line, self.at.column)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

/// Reads the text of a file of this name. Empty documents are passed over, and a `List` is read as its items.
///
/// # Errors
/// Everything that is wrong, in the order of the file, but at most [`MAX_PROBLEMS`].
pub fn read(source: &str, text: &str) -> Result<Manifest, Vec<Problem>> {
    let mut reader = Reader { source, manifest: Manifest::default(), problems: Vec::new() };
    reader.text(text);
    let Reader { manifest, mut problems, .. } = reader;
    problems.sort_by_key(|problem| problem.at);
    if problems.is_empty() { Ok(manifest) } else { Err(problems) }
}

/// Something that is wrong with a field of an object.
#[derive(Debug)]
struct Fault {
    field: String,
    at: Position,
    message: String,
}

impl Fault {
    fn of_object(at: Position, message: String) -> Self {
        Self { field: String::new(), at, message }
    }
}

struct Reader<'s> {
    source: &'s str,
    manifest: Manifest,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn problem(&mut self, object: Option<&str>, fault: Fault) {
        let Fault { field, at, message } = fault;
        if self.problems.len() < MAX_PROBLEMS {
            let (source, object) = (self.source.into(), object.map(Into::into));
            self.problems.push(Problem { source, object, field, at, message });
        }
    }

    fn text(&mut self, text: &str) {
        if text.len() > MAX_BYTES {
            let message = format!("has {} bytes; allowed is at most {MAX_BYTES}", text.len());
            return self.problem(None, Fault::of_object(Position::START, message));
        }
        let schema = match &*SCHEMA {
            Ok(schema) => schema,
            Err(error) => {
                let message =
                    format!("cannot be checked: the schema of {GROUP} cannot be generated: {error}");
                return self.problem(None, Fault::of_object(Position::START, message));
            }
        };
        for document in tree::documents(text) {
            match document {
                Ok(node) => self.object(&node, schema),
                Err(fault) => self.problem(None, fault),
            }
        }
    }

    fn object(&mut self, node: &Node, schema: &Value) {
        let text = |field| node.get(field).and_then(Node::text);
        let name = node.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Node::text);
        let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
            let message = format!("is no object of Kubernetes: apiVersion or kind is missing. {}", ours());
            return self.problem(name, Fault::of_object(node.at, message));
        };
        let fault = |field: &str, message| {
            let at = node.field(field).map_or(node.at, |(key, _)| key.at);
            Fault { field: field.into(), at, message }
        };
        let (group, version) = api_version.split_once('/').unwrap_or((api_version, ""));
        let tuning = TcpCloseTuning::kind(&());
        if (api_version, kind) == ("v1", "List") || (group == GROUP && kind == format!("{tuning}List")) {
            self.list(node, schema);
        } else if (group == GROUP && version != VERSION) || (group != GROUP && kind == tuning) {
            self.problem(name, fault("apiVersion", not_known(api_version)));
        } else if group != GROUP {
            let (api_version, kind, name) = (api_version.into(), kind.into(), name.map(Into::into));
            self.manifest.skipped.push(Skipped { api_version, kind, name, at: node.at });
        } else if kind == tuning {
            self.tuning(node, schema);
        } else if kind == TcpCloseNode::kind(&()) {
            let message = format!("{kind} is written by the operator and the agents, never by people");
            self.problem(name, fault("kind", message));
        } else {
            self.problem(name, fault("kind", not_known(kind)));
        }
    }

    fn list(&mut self, node: &Node, schema: &Value) {
        match node.get("items").map(|items| &items.content) {
            Some(Content::List(items)) => items.iter().for_each(|item| self.object(item, schema)),
            _ => self.problem(None, Fault::of_object(node.at, "has no list of items".into())),
        }
    }

    fn tuning(&mut self, node: &Node, schema: &Value) {
        let mut check = Check::new(node.at);
        let value = check.value("", node, schema);
        check_name(&value["metadata"]["name"], &mut check);
        check_selector("spec.nodeSelector", &value["spec"]["nodeSelector"], &mut check);
        let canary = &value["spec"]["rollout"]["canary"]["nodeSelector"];
        if !canary.is_null() {
            check_selector("spec.rollout.canary.nodeSelector", canary, &mut check);
        }
        let name = value["metadata"]["name"].as_str().map(str::to_owned);
        if check.faults.is_empty() {
            match serde_json::from_value(value) {
                Ok(object) => {
                    let (source, fields) = (self.source.into(), check.fields);
                    return self.manifest.tunings.push(Located { object, source, fields });
                }
                Err(error) => check.fault("", format!("cannot be decoded: {error}")),
            }
        }
        for fault in check.faults {
            self.problem(name.as_deref(), fault);
        }
    }
}

fn not_known(text: &str) -> String {
    format!("\"{}\" is not known. {}", shown(text), ours())
}

fn ours() -> String {
    format!("For a tuning: apiVersion: {GROUP}/{VERSION}, kind: {}", TcpCloseTuning::kind(&()))
}

static SCHEMA: LazyLock<Result<Value, definition::Error>> = LazyLock::new(schema);

/// The schema of a tuning, with what the API server knows of every object, and without what people do not write.
fn schema() -> Result<Value, definition::Error> {
    let definition = serde_json::to_value(definition::tuning()?)?;
    let mut schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
    schema["properties"]["apiVersion"] = json!({ "type": "string" });
    schema["properties"]["kind"] = json!({ "type": "string" });
    schema["properties"]["metadata"] = json!({
        "type": "object",
        "description": "The name of the tuning.",
        "properties": { "name": { "type": "string", "maxLength": 253, "description": "The name of the tuning." } },
        "required": ["name"],
        "x-kubernetes-preserve-unknown-fields": true,
    });
    schema["properties"]["status"] = json!({ "x-kubernetes-preserve-unknown-fields": true });
    schema["required"] = json!(["metadata", "spec"]);
    Ok(schema)
}

fn check_name(name: &Value, check: &mut Check) {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.iter().all(|byte| alphanumeric(*byte) || *byte == b'-')
            && bytes.first().is_some_and(|byte| alphanumeric(*byte))
            && bytes.last().is_some_and(|byte| alphanumeric(*byte))
    };
    if name.as_str().is_some_and(|name| !name.split('.').all(is_label)) {
        let message = "must be a DNS name: lower case letters, digits, '-' and '.', and a letter or digit at both ends \
                       of each part";
        check.fault("metadata.name", message.into());
    }
}

/// The two rules of the definition that its schema says in CEL. What is of a wrong type has been told already.
fn check_selector(field: &str, selector: &Value, check: &mut Check) {
    if serde_json::from_value(selector.clone()).is_ok_and(|selector: NodeSelector| selector.is_empty()) {
        check.fault(field, NodeSelector::EMPTY.into());
    }
    for (index, item) in selector["matchExpressions"].as_array().into_iter().flatten().enumerate() {
        let requirement: Result<NodeSelectorRequirement, _> = serde_json::from_value(item.clone());
        if requirement.is_ok_and(|requirement| !requirement.values_suit()) {
            let field = format!("{field}.matchExpressions[{index}].values");
            check.fault(&field, NodeSelectorRequirement::VALUES.into());
        }
    }
}
