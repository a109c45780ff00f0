//! One gateway that is connected: what it lacks is written to it, and what it says is read at the same time, so that neither waits for the other.

use std::sync::Arc;
use std::time::Duration;

use durward_control::stream::{
    Frames, FromGateway, ItemDigest, ItemKey, ToGateway, VERSION, frame,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::hub::{Batch, Hub};
use crate::app::sentence;

/// Time for a gateway to say what it holds, and to take what is written to it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Things that a gateway may say that it holds.
const MOST_HELD: usize = 1_000_000;

/// Serves a gateway until the connection ends.
pub(super) async fn serve(stream: UnixStream, hub: Arc<Hub>) {
    let (reading, mut writing) = stream.into_split();
    let mut reader = Reader { reading, frames: Frames::default(), bytes: vec![0; 64 * 1024] };
    let greeted = timeout(PATIENCE, async {
        let welcome =
            ToGateway::Welcome { version: VERSION, namespace: Arc::clone(&hub.namespace) };
        write(&mut writing, &framed(&welcome)?).await?;
        held(&mut reader).await
    });
    let held = match greeted.await {
        Ok(Ok(held)) => held,
        Ok(Err(why)) => return tracing::warn!(why, "connection of a gateway rejected"),
        Err(_) => return tracing::warn!("connection of a gateway rejected: no greeting in time"),
    };
    let Some((number, wake)) = hub.join(held) else {
        return tracing::warn!("connection of a gateway rejected: too many are connected");
    };
    tracing::info!(gateway = number, "a gateway is connected");
    let ended = tokio::select! {
        ended = send(&mut writing, &hub, number, &wake) => ended,
        ended = receive(&mut reader, &hub, number) => ended,
    };
    hub.leave(number);
    let why = ended.err().unwrap_or_default();
    tracing::info!(gateway = number, why, "a gateway has gone");
}

struct Reader {
    reading: OwnedReadHalf,
    frames: Frames,
    bytes: Vec<u8>,
}

impl Reader {
    /// Waits for the next message; `None` at the end of the connection.
    async fn next(&mut self) -> Result<Option<FromGateway>, String> {
        loop {
            if let Some((message, _)) =
                self.frames.next_message().map_err(|error| sentence(&error))?
            {
                return Ok(Some(message));
            }
            let read = self.reading.read(&mut self.bytes).await;
            match read.map_err(|error| error.to_string())? {
                0 => return Ok(None),
                count => self.frames.push(&self.bytes[..count]),
            }
        }
    }
}

/// Reads what a gateway holds.
async fn held(reader: &mut Reader) -> Result<Vec<(ItemKey, ItemDigest)>, String> {
    match reader.next().await? {
        Some(FromGateway::Hello { version: VERSION }) => {}
        Some(FromGateway::Hello { version }) => {
            return Err(format!(
                "it speaks version {version} and this process version {VERSION}: run the same release of both"
            ));
        }
        _ => return Err("its first message does not state a version".to_owned()),
    }
    let mut held = Vec::new();
    loop {
        match reader.next().await? {
            Some(FromGateway::Have(more)) if held.len() + more.len() <= MOST_HELD => {
                held.extend(more);
            }
            Some(FromGateway::Follow) => return Ok(held),
            Some(_) => return Err("it sent another message before the end of its list".to_owned()),
            None => return Err("it ended the connection".to_owned()),
        }
    }
}

async fn send(
    writing: &mut OwnedWriteHalf,
    hub: &Hub,
    number: u64,
    wake: &Notify,
) -> Result<(), String> {
    loop {
        let Some(Batch { items, is_first, state, asked }) = hub.batch(number) else {
            wake.notified().await;
            continue;
        };
        let mut is_change = is_first;
        for key in items {
            match hub.message(number, &key, is_first) {
                Ok(Some(message)) => {
                    write(writing, &message).await?;
                    is_change = true;
                }
                Ok(None) => {}
                Err(error) => {
                    let error = sentence(&error);
                    tracing::error!(error, ?key, "cannot send an object to the gateway");
                }
            }
        }
        if is_change {
            write(writing, &framed(&ToGateway::Commit)?).await?;
        }
        if let Some(state) = state {
            write(writing, &framed(&ToGateway::State(state))?).await?;
        }
        if let Some(asked) = asked {
            write(writing, &framed(&ToGateway::Ask(asked))?).await?;
        }
    }
}

async fn receive(reader: &mut Reader, hub: &Hub, number: u64) -> Result<(), String> {
    loop {
        match reader.next().await? {
            Some(FromGateway::Report(report)) if report.is_bounded() => {
                hub.report(number, *report);
            }
            Some(FromGateway::Report(_)) => return Err("its report is too large".to_owned()),
            Some(FromGateway::Answer(answered)) if answered.is_bounded() => {
                hub.answer(number, answered);
            }
            Some(FromGateway::Answer(_)) => return Err("its answer is too large".to_owned()),
            Some(_) => return Err("it sent its list twice".to_owned()),
            None => return Ok(()),
        }
    }
}

fn framed(message: &ToGateway) -> Result<Vec<u8>, String> {
    frame(message).map_err(|error| sentence(&error))
}

async fn write(writing: &mut OwnedWriteHalf, bytes: &[u8]) -> Result<(), String> {
    match timeout(PATIENCE, writing.write_all(bytes)).await {
        Ok(written) => written.map_err(|error| error.to_string()),
        Err(_) => Err(format!("it has read nothing for {PATIENCE:?}")),
    }
}
