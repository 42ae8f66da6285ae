//! The one function that makes a client for the API server.

use std::time::Duration;

use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::{Client, Config};
use tower::ServiceBuilder;
use tower::util::BoxService;

/// A dead peer is noticed after 20 s of silence and 3 probes, 10 s apart: within 60 s, and not after the five minutes
/// that a watch may be silent.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_PROBE: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// Connections that nobody uses are closed soon: 15,000 agents that report once in a while must not hold 15,000 more.
const IDLE: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(5);

/// Makes a client that notices a dead connection within 60 s and keeps none idle for long.
///
/// # Errors
/// Where the configuration names certificates or credentials that cannot be used.
pub fn client(config: &Config) -> Result<Client, kube::Error> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE_PROBE));
    connector.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .build(config.rustls_https_connector_with_connector(connector)?);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(BoxService::new(service), config.default_namespace.clone()).build())
}
