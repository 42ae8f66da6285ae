//! Stands between one client and the API server, and lets a test act around each of the client's writes: end the client,
//! or keep the write back for a while. The client speaks plain HTTP to it; it speaks to the API server as a service account.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{
        StatusCode, Uri,
        header::{AUTHORIZATION, HOST},
    },
    response::{IntoResponse, Response},
};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tokio::{net::TcpListener, sync::oneshot};

use crate::{
    cluster::Cluster,
    error::{Error, Result},
    files,
    install::NAMESPACE,
    network,
};

/// No object of the product comes near this.
const BODY_MAX: usize = 4 << 20;

/// When a test may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Before a write is passed on.
    Before,
    /// After the API server has answered, and before the client hears of it.
    After,
}

/// A write on its way.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    /// Counted from 1.
    pub(crate) number: usize,
    /// `PATCH /apis/...`
    pub(crate) what: String,
}

/// What a test does around a write, on a thread where it may wait; whether the write, or its answer, is passed on.
pub(crate) type Act = Box<dyn Fn(&Write, Moment) -> bool + Send + Sync>;

/// A proxy in the control plane's network namespace. It ends when this is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    passing: Arc<Passing>,
    _end: oneshot::Sender<()>,
}

struct Passing {
    client: Client,
    count: AtomicUsize,
    answers: Mutex<Vec<(Write, StatusCode)>>,
    act: Mutex<Arc<Act>>,
}

impl Proxy {
    /// Starts one that speaks for this service account of the release.
    pub(crate) fn start(cluster: &Cluster, account: &str) -> Result<Self> {
        let kubeconfig = kubeconfig(cluster, account)?;
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = oneshot::channel();
        let net = cluster.net()?;
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let serving = runtime.map_err(Error::system("start a runtime")).and_then(|runtime| {
                net.enter()?;
                runtime.block_on(serve(kubeconfig, &tell, ended))
            });
            // Nobody listens any longer where it had started well.
            drop(serving.map_err(|error| tell.send(Err(error))));
        });
        let gone = || Error::Unclear { what: "a proxy".into(), why: "its thread panicked".into() };
        let (address, passing) = told.recv().map_err(|_| gone())??;
        Ok(Self { address, passing, _end: end })
    }

    /// Writes a kubeconfig for its client.
    pub(crate) fn write_kubeconfig(&self, path: &Path) -> Result<()> {
        files::write(
            path,
            contexts(&json!({ "server": format!("http://{}", self.address) }), &json!({})).to_string(),
        )
    }

    /// From now on this is done around each write, and they are counted anew.
    pub(crate) fn act(&self, act: Act) {
        *self.passing.act.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(act);
        self.passing.count.store(0, Ordering::Relaxed);
        self.passing.answers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The writes since then that were answered, in the order of the answers.
    pub(crate) fn answers(&self) -> Vec<(Write, StatusCode)> {
        self.passing.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The account's own rights, and not an administrator's.
fn kubeconfig(cluster: &Cluster, account: &str) -> Result<Kubeconfig> {
    let token = cluster.kubectl(&["create", "token", account, "--namespace", NAMESPACE])?;
    let server = json!({
        "server": network::api_url(),
        "certificate-authority": cluster.pki().join("ca.crt"),
    });
    serde_json::from_value(contexts(&server, &json!({ "token": token.trim() })))
        .map_err(|error| Error::Unclear { what: "the proxy's kubeconfig".into(), why: error.to_string() })
}

fn contexts(cluster: &serde_json::Value, user: &serde_json::Value) -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "lab", "cluster": cluster }],
        "users": [{ "name": "lab", "user": user }],
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "lab" } }],
        "current-context": "lab",
    })
}

type Started = Result<(SocketAddr, Arc<Passing>)>;

async fn serve(
    kubeconfig: Kubeconfig,
    tell: &std::sync::mpsc::Sender<Started>,
    ended: oneshot::Receiver<()>,
) -> Result<()> {
    let unclear = |error: kube::config::KubeconfigError| Error::Unclear {
        what: "the proxy's kubeconfig".into(),
        why: error.to_string(),
    };
    let config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(unclear)?;
    let client = crds::client::client(&config, crds::client::IDLE_OF_FEW)
        .map_err(|source| Error::Api { act: "make a client".into(), source: Box::new(source) })?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(Error::system("listen"))?;
    let address = listener.local_addr().map_err(Error::system("read the port"))?;
    let act: Act = Box::new(|_, _| true);
    let passing = Arc::new(Passing {
        client,
        count: AtomicUsize::new(0),
        answers: Mutex::default(),
        act: Mutex::new(Arc::new(act)),
    });
    drop(tell.send(Ok((address, passing.clone()))));
    let app = Router::new().fallback(pass).with_state(passing);
    tokio::select! {
        served = axum::serve(listener, app) => served.map_err(Error::system("serve")),
        _ = ended => Ok(()),
    }
}

async fn pass(State(passing): State<Arc<Passing>>, request: Request) -> Response {
    if request.method().is_safe() {
        return passing.forward(request).await;
    }
    let number = passing.count.fetch_add(1, Ordering::Relaxed) + 1;
    let write = Write { number, what: format!("{} {}", request.method(), request.uri().path()) };
    if !passing.act(&write, Moment::Before).await {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let response = passing.forward(request).await;
    let answer = (write.clone(), response.status());
    passing.answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
    if passing.act(&write, Moment::After).await {
        response
    } else {
        StatusCode::SERVICE_UNAVAILABLE.into_response()
    }
}

impl Passing {
    async fn act(&self, write: &Write, moment: Moment) -> bool {
        let act = self.act.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let write = write.clone();
        // Where it panics, the test fails by what it waits for.
        tokio::task::spawn_blocking(move || act(&write, moment)).await.unwrap_or(false)
    }

    async fn forward(&self, request: Request) -> Response {
        match self.send(request).await {
            Ok(response) => response,
            Err(why) => (StatusCode::BAD_GATEWAY, why).into_response(),
        }
    }

    async fn send(&self, request: Request) -> Result<Response, String> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = path.parse::<Uri>().map_err(|error| error.to_string())?;
        for own in [HOST, AUTHORIZATION] {
            parts.headers.remove(own);
        }
        let bytes = to_bytes(body, BODY_MAX).await.map_err(|error| error.to_string())?;
        let request = Request::from_parts(parts, kube::client::Body::from(bytes));
        let response = self.client.send(request).await.map_err(|error| error.to_string())?;
        Ok(response.map(Body::new))
    }
}
