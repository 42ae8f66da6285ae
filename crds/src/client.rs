//! The one function that makes a client for the API server, and how long a broken watch rests.

use std::time::Duration;

use backon::ExponentialBuilder;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::runtime::watcher::ExponentialBackoff;
use kube::{Client, Config};
use tower::ServiceBuilder;
use tower::util::BoxService;

/// A dead peer is noticed after 20 s of silence and 3 probes, 10 s apart: within 60 s, and not after the five minutes
/// that a watch may be silent.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_PROBE: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// So long may what was sent stay unacknowledged. The kernel sends no probes while it does, and would go on sending it again for
/// 15 minutes. Shorter than the probes take together, which it ends as well: the last of them must find it over.
const UNACKNOWLEDGED: Duration = Duration::from_secs(45);
/// After how long a connection that nobody uses is closed, by one of many. An agent that reports every 20 s finds it open: a
/// handshake costs more than its turns in between. 15,000, which report every 300 s, must not hold 15,000 more.
pub const IDLE_OF_MANY: Duration = Duration::from_secs(25);
/// The same of one of few, which answers a change sooner when it need not shake hands first.
pub const IDLE_OF_FEW: Duration = Duration::from_secs(90);
const CONNECT: Duration = Duration::from_secs(5);
/// A watch that broke is opened again, and a report that failed is sent again, after the first, then after twice as long, up to
/// the second.
const REST_FIRST: Duration = Duration::from_millis(500);
const REST_MAX: Duration = Duration::from_secs(12);

/// How long a broken watch rests before it is opened again, or a failed report before it is sent again: with jitter, so that a
/// fleet does not come back at once, and never so long that an API server that is back stays unnoticed for 30 s.
pub fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(REST_FIRST)
        .with_max_delay(REST_MAX)
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
        .into()
}

/// Makes a client that notices a dead connection within 60 s, and closes one that has been `idle` for so long.
///
/// # Errors
/// Where the configuration names certificates or credentials that cannot be used.
pub fn client(config: &Config, idle: Duration) -> Result<Client, kube::Error> {
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(idle)
        .build(config.rustls_https_connector_with_connector(connector())?);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(BoxService::new(service), config.default_namespace.clone()).build())
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE_PROBE));
    connector.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    connector
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;
    use kube::runtime::utils::Backoff;
    use socket2::SockRef;
    use tokio::net::{TcpListener, TcpStream};
    use tower::ServiceExt;

    use super::*;

    /// One as the client makes it.
    async fn connection() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
        connector().oneshot(address).await.map(TokioIo::into_inner).unwrap()
    }

    #[tokio::test]
    async fn a_connection_with_a_request_under_way_is_given_up_within_60_s() {
        let connection = connection().await;
        let unacknowledged = SockRef::from(&connection).tcp_user_timeout().unwrap();
        assert_eq!(unacknowledged, Some(UNACKNOWLEDGED));
        assert!(UNACKNOWLEDGED < Duration::from_secs(60));
    }

    #[tokio::test]
    async fn a_connection_that_only_listens_is_given_up_within_60_s() {
        let connection = connection().await;
        let kernel = SockRef::from(&connection);
        assert!(kernel.keepalive().unwrap());
        let (idle, probe) = (kernel.tcp_keepalive_time().unwrap(), kernel.tcp_keepalive_interval().unwrap());
        let probed = idle + kernel.tcp_keepalive_retries().unwrap() * probe;
        assert_eq!(probed, Duration::from_secs(50));
        // With both set the kernel looks at this one, whenever a probe is due.
        assert!(kernel.tcp_user_timeout().unwrap().is_some_and(|unacknowledged| unacknowledged < probed));
    }

    #[test]
    fn a_broken_watch_is_opened_again_within_a_second_and_never_later_than_30_s() {
        let mut rests = backoff();
        let first = REST_FIRST..2 * REST_FIRST;
        assert!(first.contains(&rests.next().unwrap()));
        assert!(rests.by_ref().take(100).all(|rest| rest < Duration::from_secs(30)));
        rests.reset();
        assert!(first.contains(&rests.next().unwrap()), "an answer starts it anew");
    }

    #[test]
    fn two_agents_do_not_come_back_at_once() {
        let rests = || backoff().take(5).collect::<Vec<_>>();
        assert_ne!(rests(), rests());
    }
}
