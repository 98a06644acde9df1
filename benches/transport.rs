//! Measures QUIC on loopback: MB/s of bulk messages, requests a second, handshakes a second.
//!
//! `cargo bench --bench transport`. Both peers share one thread, as in the daemon, so one core does
//! the work of two machines. Run it twice and trust ratios within one run, not numbers across.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dfs::base::time::SystemClock;
use dfs::base::{Clock, Rng, task};
use dfs::crypto::Identity;
use dfs::transport::{Connection, Incoming, Quic, Transport, TransportError};

const MIB: usize = 1 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let rng = Rng::from_entropy();
    let (one, two) = (Identity::generate(&rng)?, Identity::generate(&rng)?);
    runtime.block_on(async {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let dialler = Quic::bind(loopback, false, &one)?;
        let target = Arc::new(Quic::bind(loopback, false, &two)?);
        let addr = target.local_addr();
        task::spawn(serve(target));
        let connection = dialler.connect(addr).await?;

        let small = Bytes::from(vec![1; 256]);
        let bulk = Bytes::from(vec![2; MIB]);
        let put = (small.clone(), bulk);
        let ping = (small, Bytes::new());
        // Lets path discovery and the congestion window settle.
        requests(&connection, &put, 256, 8).await?;

        let took = requests(&connection, &put, 1024, 8).await?;
        println!(
            "1 MiB messages, 8 streams  {:>8.0} MB/s",
            rate(1024 * MIB, took) / 1e6
        );
        let took = requests(&connection, &put, 512, 1).await?;
        println!(
            "1 MiB messages, 1 stream   {:>8.0} MB/s",
            rate(512 * MIB, took) / 1e6
        );
        let took = requests(&connection, &ping, 20_000, 1).await?;
        println!("requests of 256 B, 1 by 1  {:>8.0} /s", rate(20_000, took));
        let took = requests(&connection, &ping, 100_000, 32).await?;
        println!("requests of 256 B, 32      {:>8.0} /s", rate(100_000, took));

        let clock = SystemClock::new();
        for _ in 0..200 {
            dialler.connect(addr).await?;
        }
        println!(
            "handshakes                 {:>8.0} /s",
            rate(200, clock.monotonic())
        );
        dialler.close().await;
        Ok(())
    })
}

fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// Answers every request of every peer with its body.
async fn serve(target: Arc<Quic>) {
    while let Some(connection) = target.accept().await {
        task::spawn(async move {
            while let Some(Incoming { frame, reply }) = connection.next_request().await {
                let _ = reply.send(frame.body, Bytes::new()).await;
            }
        });
    }
}

/// Sends `count` requests, `parallel` at a time; returns how long that took.
async fn requests(
    connection: &Arc<dyn Connection>,
    request: &(Bytes, Bytes),
    count: usize,
    parallel: usize,
) -> Result<Duration, TransportError> {
    let clock = SystemClock::new();
    let askers: Vec<_> = (0..parallel)
        .map(|_| {
            let (connection, (body, payload)) = (Arc::clone(connection), request.clone());
            task::spawn(async move {
                for _ in 0..count / parallel {
                    connection.request(body.clone(), payload.clone()).await?;
                }
                Ok::<(), TransportError>(())
            })
        })
        .collect();
    for asker in askers {
        asker.await.map_err(|_| TransportError::Reset)??;
    }
    Ok(clock.monotonic())
}
