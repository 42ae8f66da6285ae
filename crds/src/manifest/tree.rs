//! YAML as a tree whose nodes know their line and column.

use std::collections::BTreeMap;
use std::rc::Rc;

use granit_parser::{Event, Parser, ScanError, StrInput, Tag};

use super::scalar::Scalar;
use super::{Fault, MAX_BYTES, MAX_PROBLEMS, Position};

/// How deep lists and objects may be nested. A tuning needs 5.
const MAX_DEPTH: usize = 64;
/// How much text all aliases of a file may stand for. Ten lines of aliases to aliases can stand for gigabytes.
const MAX_ALIASED: usize = MAX_BYTES;

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: Position,
    /// `!!int`, where one is written.
    pub(super) tag: Option<String>,
    pub(super) content: Content,
    extent: Extent,
}

/// How much a node is, with aliases counted as what they stand for.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// Bytes of text, and one for each node.
    size: usize,
    /// 1 for a scalar.
    depth: usize,
}

impl Extent {
    fn of(content: &Content) -> Self {
        let holding = |inner: Self, node: &Rc<Node>| Self {
            size: inner.size + node.extent.size,
            depth: inner.depth.max(node.extent.depth + 1),
        };
        match content {
            Content::Scalar(scalar) => Self { size: 1 + scalar.text.len(), depth: 1 },
            Content::List(items) => items.iter().fold(Self { size: 1, depth: 1 }, holding),
            Content::Object(fields) => {
                let names: usize = fields.iter().map(|(key, _)| 1 + key.name.text.len()).sum();
                fields.iter().map(|(_, node)| node).fold(Self { size: 1 + names, depth: 1 }, holding)
            }
        }
    }
}

#[derive(Debug)]
pub(super) enum Content {
    Scalar(Scalar),
    List(Vec<Rc<Node>>),
    /// In the order of the file, and with keys that are written twice.
    Object(Vec<(Key, Rc<Node>)>),
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) at: Position,
    pub(super) name: Scalar,
}

impl Node {
    /// The first field of this name.
    pub(super) fn field(&self, name: &str) -> Option<&(Key, Rc<Self>)> {
        match &self.content {
            Content::Object(fields) => fields.iter().find(|(key, _)| key.name.text == name),
            Content::Scalar(_) | Content::List(_) => None,
        }
    }

    /// The value of the first field of this name.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        self.field(name).map(|(_, value)| value.as_ref())
    }

    /// The text of a scalar that has one.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar(scalar) if !scalar.is_null() => Some(&scalar.text),
            Content::Scalar(_) | Content::List(_) | Content::Object(_) => None,
        }
    }

    /// Whether nothing is written here.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar(scalar) if scalar.is_null())
    }
}

impl From<ScanError> for Fault {
    fn from(error: ScanError) -> Self {
        Self::of_object((*error.marker()).into(), format!("not YAML: {}", error.info()))
    }
}

/// The documents of a file, without the empty ones. One that cannot be read does not hide the next.
pub(super) fn documents(text: &str) -> Vec<Result<Rc<Node>, Fault>> {
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let parser = Parser::new_from_str_with_options(text, options);
    let mut builder = Builder { parser, anchors: BTreeMap::new(), aliased: 0 };
    let mut documents = Vec::new();
    let mut unreadable = 0;
    loop {
        match builder.document() {
            Ok(None) => return documents,
            Ok(Some(node)) if node.is_null() => {}
            Ok(Some(node)) => documents.push(Ok(node)),
            Err(error) => {
                documents.push(Err(error));
                unreadable += 1;
                let another = builder.parser.proceed_next_document();
                if unreadable == MAX_PROBLEMS || !matches!(another, Ok(true)) {
                    return documents;
                }
            }
        }
    }
}

struct Builder<'t> {
    parser: Parser<'t, StrInput<'t>>,
    anchors: BTreeMap<usize, Rc<Node>>,
    /// How much text the aliases so far stand for.
    aliased: usize,
}

impl<'t> Builder<'t> {
    fn next(&mut self) -> Result<Option<(Event<'t>, Position)>, Fault> {
        Ok(self.parser.next_event().transpose()?.map(|(event, span)| (event, Position::from(span.start))))
    }

    fn document(&mut self) -> Result<Option<Rc<Node>>, Fault> {
        self.anchors.clear();
        while let Some((event, at)) = self.next()? {
            if event.is_node() {
                return self.node(event, at, 1).map(Some);
            }
        }
        Ok(None)
    }

    /// The node that begins with this event, at this depth.
    fn node(&mut self, event: Event<'t>, at: Position, level: usize) -> Result<Rc<Node>, Fault> {
        if level > MAX_DEPTH {
            return Err(too_deep(at));
        }
        let (anchor, tag, content) = match event {
            Event::Alias(anchor) => return self.alias(anchor, at, level),
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, tag, Content::Scalar(Scalar::new(text.into_owned(), style)))
            }
            Event::SequenceStart(_, anchor, tag) => (anchor, tag, Content::List(self.list(level)?)),
            Event::MappingStart(_, anchor, tag) => (anchor, tag, Content::Object(self.object(level)?)),
            _ => return Err(Fault::of_object(at, "not YAML: a value was expected".into())),
        };
        let (tag, extent) = (tag.as_deref().map(Tag::original), Extent::of(&content));
        let node = Rc::new(Node { at, tag, content, extent });
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        Ok(node)
    }

    fn list(&mut self, level: usize) -> Result<Vec<Rc<Node>>, Fault> {
        let mut items = Vec::new();
        while let Some((event, at)) = self.next()? {
            if event == Event::SequenceEnd {
                break;
            }
            items.push(self.node(event, at, level + 1)?);
        }
        Ok(items)
    }

    fn object(&mut self, level: usize) -> Result<Vec<(Key, Rc<Node>)>, Fault> {
        let mut fields = Vec::new();
        while let Some((event, at)) = self.next()? {
            if event == Event::MappingEnd {
                break;
            }
            let name = self.node(event, at, level + 1)?;
            let (Content::Scalar(scalar), None) = (&name.content, &name.tag) else {
                return Err(Fault::of_object(at, "the name of a field must be text without a tag".into()));
            };
            let key = Key { at, name: scalar.clone() };
            if let Some((event, at)) = self.next()? {
                fields.push((key, self.node(event, at, level + 1)?));
            }
        }
        Ok(fields)
    }

    fn alias(&mut self, anchor: usize, at: Position, level: usize) -> Result<Rc<Node>, Fault> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(Fault::of_object(at, "an alias cannot stand inside of what it stands for".into()));
        };
        self.aliased += node.extent.size;
        if self.aliased > MAX_ALIASED {
            let message = format!("the aliases up to here stand for more than {MAX_ALIASED} bytes");
            return Err(Fault::of_object(at, message));
        }
        if level + node.extent.depth > MAX_DEPTH + 1 {
            return Err(too_deep(at));
        }
        Ok(Rc::clone(node))
    }
}

fn too_deep(at: Position) -> Fault {
    Fault::of_object(at, format!("nested deeper than {MAX_DEPTH} levels"))
}
