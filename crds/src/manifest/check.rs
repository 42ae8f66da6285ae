//! A tree held against the schema of the definition, as the API server would, and more strictly: no unknown field, no field
//! twice, nothing that kubectl reads in another way than a person.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use serde_json::{Map, Value, json};

use super::scalar::{Meaning, Scalar};
use super::tree::{Content, Key, Node};
use super::{Fault, MAX_PROBLEMS, Position};
use crate::tuning::is_percentage;

/// How much of people's text a message repeats.
const MAX_SHOWN: usize = 64;
/// How alike (Jaro-Winkler, 0 to 1) a misspelt name and the suggested one must be.
const ALIKE: f64 = 0.85;

/// What was found in one object.
#[derive(Debug)]
pub(super) struct Check {
    /// Where each known field is written.
    pub(super) fields: BTreeMap<String, Position>,
    /// What is wrong.
    pub(super) faults: Vec<Fault>,
}

impl Check {
    pub(super) fn new(at: Position) -> Self {
        Self { fields: BTreeMap::from([(String::new(), at)]), faults: Vec::new() }
    }

    /// Something that is wrong with this field, at the place where it, or what should hold it, is written.
    pub(super) fn fault(&mut self, field: &str, message: String) {
        self.fault_at(field, nearest(&self.fields, field), message);
    }

    fn fault_at(&mut self, field: &str, at: Position, message: String) {
        if self.faults.len() < MAX_PROBLEMS {
            self.faults.push(Fault { field: field.into(), at, message });
        }
    }

    /// Checks a value, and returns it without unknown fields; null stands for what is wrong.
    pub(super) fn value(&mut self, field: &str, node: &Node, schema: &Value) -> Value {
        if is_open(schema) && schema.get("type").is_none() {
            return Value::Null;
        }
        if let Some(tag) = &node.tag {
            self.fault(field, format!("tags are not read: remove {}", shown(tag)));
            return Value::Null;
        }
        let checked = match (&node.content, schema["type"].as_str()) {
            (Content::Object(fields), Some("object")) => Some(self.object(field, fields, schema)),
            (Content::List(items), Some("array")) => Some(self.list(field, items, schema)),
            (Content::Scalar(scalar), Some("integer")) => integer(scalar, schema),
            (Content::Scalar(scalar), Some("boolean")) => boolean(scalar),
            (Content::Scalar(scalar), Some("string")) => self.string(field, scalar, schema),
            (Content::Scalar(scalar), None) if is_int_or_string(schema) => {
                integer(scalar, schema).or_else(|| percentage(scalar))
            }
            _ => None,
        };
        checked.unwrap_or_else(|| {
            self.fault(field, format!("must be {}; {}", expected(schema), found(&node.content, schema)));
            Value::Null
        })
    }

    fn object(&mut self, field: &str, fields: &[(Key, Rc<Node>)], schema: &Value) -> Value {
        let mut object = Map::new();
        let mut seen = BTreeMap::new();
        for (key, node) in fields {
            let name = key.name.text.as_str();
            let path = child(field, name);
            if let Some(Position { line, .. }) = seen.insert(name, key.at) {
                self.fault_at(&path, key.at, format!("is there twice: it is also in line {line}"));
                continue;
            }
            let Some(known) = property(schema, name) else {
                if !is_open(schema) {
                    self.fault_at(&path, key.at, unknown(name, schema));
                }
                continue;
            };
            self.fields.insert(path.clone(), key.at);
            if key.name.meaning() != Meaning::Text && !key.name.is_plain_decimal() {
                let reads = key.name.kubectl_reads();
                self.fault(&path, format!("kubectl would read this name as {reads}: put it in quotes"));
            }
            object.insert(name.into(), self.value(&path, node, known));
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !seen.contains_key(name) {
                let what = schema["properties"][name]["description"].as_str().unwrap_or_default();
                self.fault(&child(field, name), format!("is missing and required. {what}"));
            }
        }
        self.amount(field, fields.len(), "fields", ["minProperties", "maxProperties"], schema);
        Value::Object(object)
    }

    fn list(&mut self, field: &str, items: &[Rc<Node>], schema: &Value) -> Value {
        self.amount(field, items.len(), "items", ["minItems", "maxItems"], schema);
        let mut seen = BTreeSet::new();
        let mut list = Vec::new();
        for (index, node) in items.iter().enumerate() {
            let path = format!("{field}[{index}]");
            self.fields.insert(path.clone(), node.at);
            let item = self.value(&path, node, &schema["items"]);
            if schema["x-kubernetes-list-type"] == "set" && !seen.insert(item.to_string()) {
                self.fault(&path, "is in the list twice".into());
            }
            list.push(item);
        }
        Value::Array(list)
    }

    fn string(&mut self, field: &str, scalar: &Scalar, schema: &Value) -> Option<Value> {
        let text = scalar.text.as_str();
        let allowed = schema["enum"].as_array().is_none_or(|values| values.contains(&json!(text)));
        if !allowed || scalar.meaning() != Meaning::Text {
            return None;
        }
        let length = text.chars().count();
        self.amount(field, length, "characters", ["minLength", "maxLength"], schema);
        Some(json!(text))
    }

    /// Whether there are as many as the schema allows.
    fn amount(&mut self, field: &str, amount: usize, unit: &str, bounds: [&str; 2], schema: &Value) {
        let [min, max] =
            bounds.map(|bound| schema[bound].as_u64().and_then(|bound| usize::try_from(bound).ok()));
        if min.is_some_and(|min| amount < min) || max.is_some_and(|max| amount > max) {
            let names = names(schema);
            let of = if names.is_empty() { String::new() } else { format!(" of {names}") };
            self.fault(field, format!("has {amount} {unit}; allowed is {}{of}", range(min, max)));
        }
    }
}

/// Where a field is written, or else what should hold it.
pub(super) fn nearest(fields: &BTreeMap<String, Position>, mut field: &str) -> Position {
    loop {
        if let Some(at) = fields.get(field) {
            return *at;
        }
        if field.is_empty() {
            return Position::START;
        }
        field = &field[..field.rfind(['.', '[']).unwrap_or(0)];
    }
}

fn integer(scalar: &Scalar, schema: &Value) -> Option<Value> {
    let value: i64 = scalar.is_plain_decimal().then(|| scalar.text.parse().ok())??;
    let [min, max] = integer_bounds(schema);
    let within = min.is_none_or(|min| value >= min) && max.is_none_or(|max| value <= max);
    within.then(|| json!(value))
}

/// What a number or a percentage may be besides a number.
fn percentage(scalar: &Scalar) -> Option<Value> {
    let is_text = scalar.meaning() == Meaning::Text;
    (is_text && is_percentage(&scalar.text)).then(|| json!(scalar.text))
}

fn boolean(scalar: &Scalar) -> Option<Value> {
    match scalar.meaning() {
        Meaning::Boolean(value) if scalar.text == value.to_string() => Some(json!(value)),
        _ => None,
    }
}

/// The schema has its bounds as floats, `60000.0`.
fn integer_bounds(schema: &Value) -> [Option<i64>; 2] {
    #[expect(clippy::cast_possible_truncation, reason = "bounds are integers of at most 32 bits")]
    [&schema["minimum"], &schema["maximum"]].map(|bound| bound.as_f64().map(|bound| bound as i64))
}

fn is_int_or_string(schema: &Value) -> bool {
    schema["x-kubernetes-int-or-string"] == true
}

/// Whether unknown fields may stand here. They are passed over.
fn is_open(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true
}

fn property<'s>(schema: &'s Value, name: &str) -> Option<&'s Value> {
    let any_name = || schema.get("additionalProperties").filter(|schema| schema.is_object());
    schema["properties"].get(name).or_else(any_name)
}

/// What a value must be, in words.
fn expected(schema: &Value) -> String {
    if let Some(values) = schema["enum"].as_array() {
        return format!("one of {}", values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "));
    }
    let [min, max] = integer_bounds(schema);
    let bounds = if (min, max) == (None, None) { String::new() } else { format!(" ({})", range(min, max)) };
    match schema["type"].as_str() {
        Some("integer") => format!("an integer{bounds}"),
        Some("boolean") => "true or false".into(),
        Some("string") => "text".into(),
        Some("array") => "a list".into(),
        Some(_) => "an object with fields".into(),
        None => format!("an integer{bounds} or a percentage such as 10%"),
    }
}

/// What is there instead, in words.
fn found(content: &Content, schema: &Value) -> String {
    let scalar = match content {
        Content::Scalar(scalar) => scalar,
        Content::List(_) => return "this is a list".into(),
        Content::Object(_) => return "this is an object with fields".into(),
    };
    let (text, reads) = (shown(&scalar.text), scalar.kubectl_reads());
    let one_of = schema["enum"].is_array();
    match scalar.meaning() {
        Meaning::Null => "null is no value".into(),
        Meaning::Text if one_of => format!("\"{text}\" is not"),
        Meaning::Text if schema["type"] == "integer" && scalar.is_quoted_decimal() => {
            format!("\"{text}\" is text: remove the quotes")
        }
        Meaning::Text => format!("\"{text}\" is text"),
        _ if schema["type"] == "string" && !one_of => {
            format!("kubectl would read {text} as {reads}: put it in quotes")
        }
        Meaning::Boolean(_) => format!("kubectl would read {text} as {reads}"),
        Meaning::Integer(_) | Meaning::Float(_) if scalar.is_plain_decimal() => format!("{text} is not"),
        Meaning::Integer(_) | Meaning::Float(_) => {
            format!("{text} is not plain decimal, and kubectl would read it as {reads}")
        }
    }
}

fn unknown(name: &str, schema: &Value) -> String {
    if name == "<<" {
        return "merge keys are not read: write the fields out".into();
    }
    match suggestion(name, schema) {
        Some(field) => format!("is no field: did you mean {field}?"),
        None => format!("is no field; allowed here: {}", names(schema)),
    }
}

fn names(schema: &Value) -> String {
    let properties = schema["properties"].as_object();
    properties.into_iter().flatten().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The field that a person is likely to have meant: `net.ipv4.tcp_fin_timeout` is tcpFinTimeoutSeconds.
fn suggestion<'s>(name: &str, schema: &'s Value) -> Option<&'s str> {
    let letters = |name: &str| name.replace(['_', '-'], "").to_lowercase();
    let name = letters(name.rsplit(['.', '/']).next()?);
    if name.is_empty() || name.len() > MAX_SHOWN {
        return None;
    }
    let fields = || schema["properties"].as_object().into_iter().flatten().map(|(field, _)| field.as_str());
    let without_unit =
        fields().filter(|field| letters(field).starts_with(&name)).min_by_key(|field| field.len());
    without_unit.or_else(|| {
        let alike = fields().map(|field| (strsim::jaro_winkler(&name, &letters(field)), field));
        alike.filter(|(alike, _)| *alike >= ALIKE).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, field)| field)
    })
}

fn range<T: std::fmt::Display>(min: Option<T>, max: Option<T>) -> String {
    match (min, max) {
        (Some(min), Some(max)) => format!("{min} to {max}"),
        (Some(min), None) => format!("at least {min}"),
        (None, Some(max)) => format!("at most {max}"),
        (None, None) => "any".into(),
    }
}

/// `spec.mode`; a name that is no word goes into brackets, `matchLabels[kubernetes.io/os]`.
fn child(field: &str, name: &str) -> String {
    let word = name.chars().all(|char| char.is_ascii_alphanumeric() || "-_".contains(char));
    match (word && (1..=MAX_SHOWN).contains(&name.len()), field.is_empty()) {
        (true, true) => name.into(),
        (true, false) => format!("{field}.{name}"),
        (false, _) => format!("{field}[{}]", shown(name)),
    }
}

/// People's text for one line of a terminal.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}
