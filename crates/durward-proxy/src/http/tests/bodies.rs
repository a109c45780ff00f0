//! Bodies in all framings, in both directions, and what happens when one side ends early.

use durward_testkit::origin::Origin;

use super::support::Setup;

// S1.38
#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let origin = Origin::http1("127.0.0.1:0");
    Setup::to(origin.address())
        .run(|rig| async move {
            let mut client = rig.client().await;
            let body = vec![b'x'; 3_000_000];
            let head = format!("POST /echo-body HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            client.send(head).await.unwrap();
            let (mut read, mut write) = tokio::io::split(client.into_transport());

            let sent = async {
                tokio::io::AsyncWriteExt::write_all(&mut write, &body).await.unwrap();
            };
            let mut answer = Vec::new();
            let received = async {
                let mut piece = vec![0; 65536];
                loop {
                    match tokio::io::AsyncReadExt::read(&mut read, &mut piece).await.unwrap() {
                        0 => break,
                        count => answer.extend_from_slice(&piece[..count]),
                    }
                }
            };
            tokio::join!(sent, received);

            assert_eq!(answer.iter().filter(|byte| **byte == b'x').count(), body.len());
        })
        .await;
}
