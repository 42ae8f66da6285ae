//! The API server, as far as an agent needs it: watch one object, read it again, write its status.

use std::time::Duration;

use crds::{AGENT_MANAGER, TcpCloseNode, TcpCloseNodeStatus};
use futures::{Stream, StreamExt, TryStreamExt};
use kube::api::{Api, Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use serde_json::json;

use crate::rests::{self, Load, Rests};

/// One request took so long that its answer is no longer waited for. An overloaded API server lets requests wait for up to 15 s
/// (a quarter of its `--request-timeout`): who gave up before would have it answer nobody, and ask again.
const REQUEST: Duration = Duration::from_secs(20);

/// Something about this node's object.
pub enum News {
    /// It is so.
    Object(Box<TcpCloseNode>),
    /// It does not exist. That is no order.
    Absent,
    /// Nothing is known, and why.
    Unknown(String),
}

/// A request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not answer in time.
    #[error("the API server did not answer within {} s", REQUEST.as_secs())]
    Timeout,
    /// The API server said no, or could not be reached.
    #[error("{0}")]
    Request(Box<kube::Error>),
}

impl Error {
    /// Whether the API server had too much to do.
    pub fn is_overload(&self) -> bool {
        match self {
            Self::Timeout => true,
            Self::Request(error) => rests::is_overload(error),
        }
    }
}

/// Watches this node's object for ever.
pub fn watch(
    api: Api<DeserializeGuard<TcpCloseNode>>,
    node: &str,
    load: &Load,
) -> impl Stream<Item = News> + use<> {
    let config = Config::default().fields(&format!("metadata.name={node}"));
    let rests = Rests::new(load);
    let load = load.clone();
    // Before it rests.
    let events =
        watcher(api, config).inspect_err(move |error| load.note_failure(rests::is_overload_of_watch(error)));
    let mut listed = false;
    events.backoff(rests).filter_map(move |event| {
        let news = match event {
            Ok(Event::Init) => {
                listed = false;
                None
            }
            Ok(Event::InitApply(object)) => {
                listed = true;
                Some(decoded(object))
            }
            Ok(Event::Apply(object)) => Some(decoded(object)),
            Ok(Event::InitDone) => (!listed).then_some(News::Absent),
            Ok(Event::Delete(_)) => Some(News::Absent),
            Err(error) => Some(News::Unknown(error.to_string())),
        };
        std::future::ready(news)
    })
}

fn decoded(object: DeserializeGuard<TcpCloseNode>) -> News {
    match object.0 {
        Ok(object) => News::Object(Box::new(object)),
        Err(error) => News::Unknown(format!("this node's TcpCloseNode cannot be decoded: {error}")),
    }
}

/// Reads this node's object from a quorum of etcd, past every cache.
///
/// # Errors
/// See [`Error`].
pub async fn read_again(api: &Api<TcpCloseNode>, node: &str) -> Result<Option<TcpCloseNode>, Error> {
    request(api.get_opt(node)).await
}

/// Writes the status as a whole. A JSON patch costs the API server less than server-side apply, which would also have it
/// note again who manages which field.
///
/// # Errors
/// See [`Error`].
pub async fn write_status(
    api: &Api<TcpCloseNode>,
    node: &str,
    uid: &str,
    status: &TcpCloseNodeStatus,
) -> Result<(), Error> {
    let patch = serde_json::from_value(json!([
        // Keeps a report on an old object off a new one of the same name.
        { "op": "test", "path": "/metadata/uid", "value": uid },
        { "op": "add", "path": "/status", "value": status },
    ]));
    let patch = patch.map_err(|error| Error::Request(Box::new(kube::Error::SerdeError(error))))?;
    let params = PatchParams { field_manager: Some(AGENT_MANAGER.into()), ..PatchParams::default() };
    request(api.patch_status(node, &params, &Patch::Json::<()>(patch))).await.map(drop)
}

async fn request<T>(answer: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(REQUEST, answer).await {
        Ok(answer) => answer.map_err(|error| Error::Request(Box::new(error))),
        Err(_) => Err(Error::Timeout),
    }
}
