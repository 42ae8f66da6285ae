//! Clients of the lab's API server that reach it as the product's programs do: from inside the lab, without the relay.

use std::{future::Future, time::Instant};

use futures::{StreamExt, pin_mut};
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use tokio::{runtime::Runtime, sync::watch};

use crate::{
    cluster::Cluster,
    error::{Error, Result},
    network,
};

/// A runtime on this thread, which moves into the control plane's network namespace for good, and a client on it.
pub(crate) struct Inside {
    /// Runs what the client does.
    pub(crate) runtime: Runtime,
    /// The cluster administrator's.
    pub(crate) client: Client,
}

impl Inside {
    pub(crate) fn enter(cluster: &Cluster) -> Result<Self> {
        cluster.net()?.enter()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::system("start a runtime"))?;
        let client = runtime.block_on(client(cluster, &network::api_url()))?;
        Ok(Self { runtime, client })
    }
}

/// The cluster administrator's client of one of its API servers, for who is inside already.
pub(crate) async fn client(cluster: &Cluster, server: &str) -> Result<Client> {
    let path = cluster.kubeconfig();
    let unclear = |why: String| Error::Unclear { what: path.display().to_string(), why };
    let saved = Kubeconfig::read_from(&path).map_err(|error| unclear(error.to_string()))?;
    let mut config = Config::from_custom_kubeconfig(saved, &KubeConfigOptions::default())
        .await
        .map_err(|error| unclear(error.to_string()))?;
    config.cluster_url = server.parse().map_err(|_| unclear(server.to_owned()))?;
    crds::client::client(&config, crds::client::IDLE_OF_FEW).map_err(api("make a client"))
}

/// For `map_err`: names what was asked of the API server.
pub(crate) fn api(act: &str) -> impl FnOnce(kube::Error) -> Error {
    move |source| Error::Api { act: act.to_owned(), source: Box::new(source) }
}

/// Watches one object until told to stop, and passes on what it looks like, and when that was known.
pub(crate) async fn follow<K, F>(
    objects: Api<K>,
    name: &str,
    mut stop: watch::Receiver<bool>,
    mut seen: impl FnMut(K, Instant) -> F,
) where
    K: kube::Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
    F: Future<Output = ()>,
{
    let events = watcher(objects, watcher::Config::default().fields(&format!("metadata.name={name}")));
    pin_mut!(events);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match event {
            Some(Ok(Event::Apply(object) | Event::InitApply(object))) => seen(object, Instant::now()).await,
            // A watch that breaks is opened again; what is missed shows as a deadline.
            Some(_) => {}
            None => return,
        }
    }
}
