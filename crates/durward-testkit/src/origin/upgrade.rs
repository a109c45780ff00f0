//! The end of an upgraded connection: whatever arrives is sent back.
//! It does not parse WebSocket frames, so a test may send any bytes through.

use aws_lc_rs::digest;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::body::{self, ResponseBody};

/// RFC 6455, section 1.3.
const WEBSOCKET_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Agrees to any upgrade asked for, and refuses a request that asks for none.
pub(super) fn accept(request: Request<Incoming>) -> Response<ResponseBody> {
    let mut answer = Response::new(body::empty());
    if request.method() == Method::CONNECT {
        echo_after_upgrade(request);
        return answer;
    }
    let Some(protocol) = request.headers().get(UPGRADE).cloned() else {
        *answer.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return answer;
    };
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(UPGRADE, protocol);
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(proof) = websocket_proof(request.headers()) {
        answer.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, proof);
    }
    echo_after_upgrade(request);
    answer
}

fn websocket_proof(headers: &HeaderMap) -> Option<HeaderValue> {
    let key = headers.get(SEC_WEBSOCKET_KEY)?.to_str().ok()?;
    let hash = digest::digest(
        &digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}{WEBSOCKET_GUID}").as_bytes(),
    );
    HeaderValue::from_str(&BASE64_STANDARD.encode(hash)).ok()
}

fn echo_after_upgrade(request: Request<Incoming>) {
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            echo(TokioIo::new(upgraded)).await;
        }
    });
}

/// Sends each byte back until the peer ends its direction, then ends ours.
pub(super) async fn echo(stream: impl AsyncRead + AsyncWrite) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    // The peer may leave at any moment; the test watches the peer.
    let _ = tokio::io::copy(&mut reader, &mut writer).await;
    let _ = writer.shutdown().await;
}
