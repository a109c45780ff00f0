//! The agent's forward proxy: connections of programs in the cluster travel over the link, and the gateway serves them by the tenant's egress rules.
//!
//! Nothing of what programs say is read here: the gateway judges each request, and what it lets out leaves from the tenant's egress address.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use durward_link::session::agent::{Declined, Opening};
use ipnet::IpNet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once at most.
const MOST: usize = 2_048;
/// Waiting streams above which those that were given up are looked for.
const LOOK_OVER: usize = 64;
/// Streams of gateways that wait at most.
const OFFERED: usize = 1_024;
/// Time for which a connection waits for a stream.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);
/// Time and bytes that a program may still send to a proxy that refuses it.
const FAREWELL: Duration = Duration::from_secs(2);
const LINGER: u64 = 64 * 1024;
/// Bytes copied at once in each direction.
const COPY: usize = 16 * 1024;
/// Answer to a program where no gateway takes its traffic.
const NO_LINK: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n\
    durward agent: the gateway takes no traffic of this cluster: see `durward agent status`, and `egress` of the link in the tenant's document\n";

/// Streams that gateways hold ready for the cluster's traffic.
#[derive(Debug, Default)]
pub struct Exits {
    streams: Mutex<VecDeque<Opening>>,
    came: Notify,
}

impl Exits {
    /// Keeps a stream until a connection takes it. Beyond a number of them it is declined.
    pub(crate) fn keep(&self, opening: Opening) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if streams.len() >= LOOK_OVER {
            streams.retain_mut(|opening| !opening.is_given_up());
        }
        if streams.len() >= OFFERED {
            drop(streams);
            return opening.decline(&Declined::Unreachable("enough streams wait".to_owned()));
        }
        streams.push_back(opening);
        drop(streams);
        self.came.notify_one();
    }

    /// Gives up all streams that wait: their carriers are left.
    pub(crate) fn give_up(&self) {
        let streams =
            std::mem::take(&mut *self.streams.lock().unwrap_or_else(PoisonError::into_inner));
        for opening in streams {
            opening.decline(&Declined::Unreachable("the agent ends".to_owned()));
        }
    }

    async fn take(&self) -> Opening {
        loop {
            let came = self.came.notified();
            if let Some(opening) =
                self.streams.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
            {
                return opening;
            }
            came.await;
        }
    }
}

/// Serves the proxy until `stopped`; connections under way may finish.
pub async fn serve(
    listener: TcpListener,
    sources: Vec<IpNet>,
    exits: Arc<Exits>,
    stopped: CancellationToken,
) {
    let (places, tasks) = (Arc::new(Semaphore::new(MOST)), TaskTracker::new());
    loop {
        let accepted = tokio::select! {
            () = stopped.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((client, peer)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        if !admits(&sources, peer.ip()) {
            tracing::info!(%peer, "a program that egressProxy.allowedSources does not name was refused");
            continue;
        }
        let exits = Arc::clone(&exits);
        tasks.spawn(async move {
            carry(client, &exits).await;
            drop(place);
        });
    }
    tasks.close();
    tasks.wait().await;
}

fn admits(sources: &[IpNet], client: IpAddr) -> bool {
    let client = client.to_canonical();
    sources.is_empty() || sources.iter().any(|net| net.contains(&client))
}

/// Tells a program that nobody takes its traffic; one that speaks SOCKS sees the connection end.
async fn refuse(mut client: TcpStream) {
    let answer = async {
        client.write_all(NO_LINK).await?;
        client.shutdown().await?;
        // With bytes unread the kernel would reset the connection, and the program might never see the answer.
        let mut nowhere = tokio::io::sink();
        tokio::io::copy(&mut (&mut client).take(LINGER), &mut nowhere).await
    };
    let _ = tokio::time::timeout(FAREWELL, answer).await;
}

async fn carry(mut client: TcpStream, exits: &Exits) {
    let _ = client.set_nodelay(true);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let Ok(opening) = tokio::time::timeout_at(deadline, exits.take()).await else {
            return refuse(client).await;
        };
        // The gateway may have given the stream up meanwhile.
        let Ok(mut stream) = opening.accept() else { continue };
        let copied = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut stream, COPY, COPY);
        if let Err(error) = copied.await {
            tracing::debug!(%error, "a connection out of the cluster broke");
            stream.reset();
        }
        return;
    }
}
