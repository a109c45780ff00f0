//! Unix sockets between processes of one host or pod: only processes of one named user are talked to, in both directions.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Users whose processes are talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peers {
    /// User of the other process; `None` for the user of this one.
    pub(crate) other: Option<u32>,
}

/// Listening socket, which is removed when this is dropped.
pub(crate) struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket: another process may have put its own in its place.
    identity: Option<(u64, u64)>,
}

impl Peers {
    fn user(self) -> u32 {
        self.other.unwrap_or_else(|| rustix::process::geteuid().as_raw())
    }

    /// Returns the permissions of the socket: for the user alone, or for a group that both processes are in.
    fn mode(self) -> u32 {
        if self.other.is_some() { 0o660 } else { 0o600 }
    }

    /// Checks the user of a connected process, as the kernel says it.
    fn check(self, stream: &UnixStream) -> io::Result<()> {
        let user = stream.peer_cred()?.uid();
        if user == self.user() {
            return Ok(());
        }
        let message = format!("the process there runs as user {user} and not {}", self.user());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
    }
}

impl Listener {
    /// Listens at a path. A socket that a process left there is replaced.
    ///
    /// # Errors
    /// Fails if another process listens there, or something there is no socket.
    pub(crate) async fn bind(path: &Path, peers: Peers) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                let message = "a file that is not a socket exists there";
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
            }
            Ok(_) if UnixStream::connect(path).await.is_ok() => {
                let message = "another process listens there";
                return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
            }
            _ => {}
        }
        // Under another name until its permissions are right, so that no process connects before.
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(format!(".new.{}", std::process::id()));
        let unfinished = PathBuf::from(unfinished);
        drop(fs::remove_file(&unfinished));
        let socket = UnixListener::bind(&unfinished)?;
        let placed = fs::set_permissions(&unfinished, Permissions::from_mode(peers.mode()))
            .and_then(|()| fs::rename(&unfinished, path));
        if let Err(error) = placed {
            drop(fs::remove_file(&unfinished));
            return Err(error);
        }
        Ok(Self { socket, path: path.to_owned(), identity: identity(path) })
    }

    /// Waits for a connection of a process that may connect; others are closed and logged.
    pub(crate) async fn accept(&self, peers: Peers) -> UnixStream {
        loop {
            let error = match self.socket.accept().await {
                Ok((stream, _)) => match peers.check(&stream) {
                    Ok(()) => return stream,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let path = self.path.display();
            tracing::warn!(%error, %path, "a connection was refused");
            // An error such as EMFILE stays for a while.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Connects to the process that listens at a path.
///
/// # Errors
/// Fails if no process listens, every user of the host may connect, or the process there runs as another user.
pub(crate) async fn connect(path: &Path, peers: Peers) -> io::Result<UnixStream> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o002 != 0 {
        let message = format!("every user may connect there (mode {:o})", mode & 0o777);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    let stream = UnixStream::connect(path).await?;
    peers.check(&stream)?;
    Ok(stream)
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = rustix::fs::lstat(path).ok()?;
    Some((found.st_dev, found.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Peers = Peers { other: None };

    fn stranger() -> Peers {
        Peers { other: Some(rustix::process::geteuid().as_raw() + 1) }
    }

    #[tokio::test]
    async fn only_its_user_may_connect_and_the_socket_goes_with_the_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kube.sock");
        let listener = Listener::bind(&path, OWN).await.unwrap();

        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let (connected, _accepted) = tokio::join!(connect(&path, OWN), listener.accept(OWN));

        assert_eq!(mode, 0o600);
        connected.unwrap();
        assert!(Listener::bind(&path, OWN).await.is_err(), "one listens there already");
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_process_of_another_user_is_refused_at_both_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kube.sock");
        let listener = Listener::bind(&path, OWN).await.unwrap();

        let refused = connect(&path, stranger()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{refused}");
        let mut ours = connect(&path, OWN).await.unwrap();
        let wait = std::time::Duration::from_millis(500);
        assert!(tokio::time::timeout(wait, listener.accept(stranger())).await.is_err());

        // Closed without a word.
        let mut byte = [0];
        let read = tokio::io::AsyncReadExt::read(&mut ours, &mut byte).await;
        assert_eq!(read.unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn a_socket_that_everybody_may_use_is_not_connected_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kube.sock");
        let _listener = Listener::bind(&path, OWN).await.unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();

        let refused = connect(&path, OWN).await.unwrap_err();

        assert!(refused.to_string().contains("every user"), "{refused}");
    }

    #[tokio::test]
    async fn a_socket_that_was_left_behind_is_replaced_and_another_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kube.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());

        let listener = Listener::bind(&path, OWN).await.unwrap();
        connect(&path, OWN).await.unwrap();
        drop(listener);
        fs::write(&path, "precious").unwrap();

        assert!(Listener::bind(&path, OWN).await.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
