//! The way from the machine to the API server: a process that listens on a loopback port of the machine's network
//! namespace and connects from inside the lab's. A socket stays in the namespace where it was made, so it listens
//! first and then moves.

use std::{
    io,
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::Path,
    time::Duration,
};

use crate::{
    cluster::Cluster,
    error::{Error, Result},
    files,
    namespace::NetNamespace,
    network, process,
    report::{Seen, poll_until},
};

/// The name of its record.
pub(crate) const RELAY: &str = "relay";
/// It only has to start and to listen.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How long it waits after a failed accept; the usual reason is that descriptors ran out.
const PAUSE: Duration = Duration::from_millis(100);

/// Starts the relay and returns the port it listens on.
pub(crate) fn start(cluster: &Cluster) -> Result<u16> {
    let holder = cluster.records().alive(network::HOLDER).ok_or(Error::NotUp)?;
    let port_file = port_file(cluster);
    files::remove(&port_file)?;
    // This very program, even if its file has been built anew meanwhile.
    let mut command = process::daemon("/proc/self/exe", cluster.name());
    command.arg0("lab").args(["relay", &holder.pid.to_string()]).arg(&port_file);
    let log = cluster.dir().join("log/relay.log");
    cluster.records().start(RELAY, &mut command, &log)?;
    poll_until("the relay to the API server listens", START_DEADLINE, || {
        Ok(Seen::when(port(cluster).is_some(), || files::tail(&log, 3)))
    })?;
    port(cluster).ok_or(Error::NotUp)
}

fn port_file(cluster: &Cluster) -> std::path::PathBuf {
    cluster.dir().join("relay.port")
}

/// The port of a running relay.
pub(crate) fn port(cluster: &Cluster) -> Option<u16> {
    std::fs::read_to_string(port_file(cluster)).ok()?.trim().parse().ok()
}

/// The relay itself: never returns but with an error.
pub(crate) fn serve(holder: u32, port_file: &Path) -> Result<()> {
    let inside = NetNamespace::of(holder)?;
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Error::system("listen on 127.0.0.1"))?;
    let address = listener.local_addr().map_err(Error::system("read the port"))?;
    inside.enter()?;
    files::write(port_file, address.port().to_string())?;
    loop {
        match listener.accept() {
            // One connection that fails is its client's matter; the client sees it closed.
            Ok((client, _)) => drop(std::thread::spawn(move || relay(client))),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

fn relay(client: TcpStream) -> io::Result<()> {
    let server = TcpStream::connect((network::API_ADDRESS, network::API_PORT))?;
    // Both ends write whole records; waiting for more would only add 40 ms to some.
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_reads, server_writes) = (client.try_clone()?, server.try_clone()?);
    let upwards = std::thread::spawn(move || pump(client_reads, server_writes));
    pump(server, client);
    // A thread that panicked has already closed its connections.
    let _ = upwards.join();
    Ok(())
}

/// Copies one direction until its end, and passes the end on.
fn pump(mut from: TcpStream, mut to: TcpStream) {
    // A reset on one side is an end like any other.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
