//! The part all servers of the kit share: a listening socket, a thread, and the record of who connected.
//! It does not read a byte of what it accepts; that is the handler's.

use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc as sync_mpsc};
use std::thread::JoinHandle;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// One accepted connection, numbered from 0 in the order of acceptance.
pub(crate) struct Accepted {
    pub(crate) id: u64,
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
}

/// A TCP server on its own thread. Dropping it ends its connections and closes its port.
pub struct Server {
    address: SocketAddr,
    ledger: Arc<Ledger>,
    orders: mpsc::UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Ledger {
    peers: Mutex<Vec<SocketAddr>>,
    accepted: AtomicU64,
    open: AtomicU64,
}

/// A change of the server's life, and the sender that says it has happened.
struct Order(Life, sync_mpsc::Sender<()>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Serving,
    Refusing,
    Stopped,
    Over,
}

type Handler = Box<dyn Fn(Accepted) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

impl Server {
    /// Binds at once, in the caller's network namespace, and serves on a new thread.
    pub(crate) fn start<H, F>(bind: impl ToSocketAddrs, handler: H) -> Self
    where
        H: Fn(Accepted) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let bind = bind
            .to_socket_addrs()
            .ok()
            .and_then(|mut addresses| addresses.next())
            .expect("a server is given an IP address and port");
        let socket = reserve(bind);
        socket.listen(1024).unwrap_or_else(|error| panic!("cannot listen on {bind}: {error}"));
        let address = local_address(&socket);
        let ledger = Arc::new(Ledger::default());
        let (orders, receiver) = mpsc::unbounded_channel();
        let handler: Handler = Box::new(move |accepted| Box::pin(handler(accepted)));
        let keeper = Keeper { address, ledger: ledger.clone(), orders: receiver, handler };
        let thread = std::thread::Builder::new()
            .name(format!("server {address}"))
            .spawn(move || keeper.run(socket))
            .expect("a thread is started");
        Self { address, ledger, orders, thread: Some(thread) }
    }

    /// Where the server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port of `address`.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The source address and port of each accepted connection, in order.
    #[must_use]
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.ledger.peers().clone()
    }

    /// How many connections were accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.ledger.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open now.
    #[must_use]
    pub fn open_connections(&self) -> u64 {
        self.ledger.open.load(Ordering::SeqCst)
    }

    /// Refuses new connections (RST) and keeps those that are there; `restart` ends it.
    pub fn refuse(&self) {
        self.order(Life::Refusing);
    }

    /// Dies: ends all connections and refuses new ones. The port stays reserved for `restart`.
    pub fn stop(&self) {
        self.order(Life::Stopped);
    }

    /// Listens again on the same address after `refuse` or `stop`.
    pub fn restart(&self) {
        self.order(Life::Serving);
    }

    /// Forgets the peers seen so far and starts counting connections from 0.
    pub fn forget_peers(&self) {
        self.ledger.peers().clear();
        self.ledger.accepted.store(0, Ordering::SeqCst);
    }

    /// Returns when the thread has obeyed.
    fn order(&self, life: Life) {
        let (done, obeyed) = sync_mpsc::channel();
        if self.orders.send(Order(life, done)).is_ok() {
            // An error means that the thread is gone, and with it everything it served.
            let _ = obeyed.recv();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.order(Life::Over);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Ledger {
    fn peers(&self) -> std::sync::MutexGuard<'_, Vec<SocketAddr>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the server's thread owns.
struct Keeper {
    address: SocketAddr,
    ledger: Arc<Ledger>,
    orders: mpsc::UnboundedReceiver<Order>,
    handler: Handler,
}

impl Keeper {
    /// One runtime per life: dropping it ends every task of that life, upgraded connections included.
    fn run(mut self, mut socket: Socket) {
        let mut next_id = 0;
        loop {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime starts where a thread did");
            let Order(life, done) = runtime.block_on(self.serve(socket, &mut next_id));
            drop(runtime);
            if life == Life::Over {
                return;
            }
            socket = reserve(self.address);
            let _ = done.send(());
            if !self.wait_for_restart(&socket) {
                return;
            }
        }
    }

    /// Accepts until told to stop or to end.
    async fn serve(&mut self, socket: Socket, next_id: &mut u64) -> Order {
        let mut listener = Some(listener(socket));
        let mut reserved = None;
        loop {
            let order = tokio::select! {
                accepted = accept(listener.as_ref()) => {
                    self.spawn(accepted, next_id);
                    continue;
                }
                order = self.orders.recv() => order.unwrap_or_else(|| Order(Life::Over, sync_mpsc::channel().0)),
            };
            match order.0 {
                Life::Over | Life::Stopped => return order,
                Life::Refusing if listener.is_some() => {
                    listener = None;
                    reserved = Some(reserve(self.address));
                }
                Life::Serving => {
                    if let Some(socket) = reserved.take() {
                        listen_again(&socket);
                        listener = Some(self::listener(socket));
                    }
                }
                Life::Refusing => {}
            }
            let _ = order.1.send(());
        }
    }

    fn spawn(&self, (stream, peer): (TcpStream, SocketAddr), next_id: &mut u64) {
        let id = *next_id;
        *next_id += 1;
        self.ledger.peers().push(peer);
        self.ledger.accepted.fetch_add(1, Ordering::SeqCst);
        let open = OpenGuard::new(self.ledger.clone());
        let serving = (self.handler)(Accepted { id, stream, peer });
        tokio::spawn(async move {
            serving.await;
            drop(open);
        });
    }

    /// Waits while stopped, and listens before it reports a restart; false when the server is over.
    fn wait_for_restart(&mut self, socket: &Socket) -> bool {
        while let Some(Order(life, done)) = self.orders.blocking_recv() {
            match life {
                Life::Over => return false,
                Life::Refusing | Life::Stopped => {}
                Life::Serving => listen_again(socket),
            }
            let _ = done.send(());
            if life == Life::Serving {
                return true;
            }
        }
        false
    }
}

/// Counts a connection as open while it lives, aborted tasks included.
struct OpenGuard(Arc<Ledger>);

impl OpenGuard {
    fn new(ledger: Arc<Ledger>) -> Self {
        ledger.open.fetch_add(1, Ordering::SeqCst);
        Self(ledger)
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A bound socket that does not listen: its port is taken, and connecting to it is refused.
fn reserve(address: SocketAddr) -> Socket {
    let bound = || -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    bound().unwrap_or_else(|error| panic!("cannot bind {address}: {error}"))
}

fn listen_again(socket: &Socket) {
    socket.listen(1024).expect("a reserved socket can listen");
}

fn local_address(socket: &Socket) -> SocketAddr {
    socket
        .local_addr()
        .ok()
        .and_then(|address| address.as_socket())
        .expect("a bound TCP socket has an IP address")
}

fn listener(socket: Socket) -> TcpListener {
    TcpListener::from_std(socket.into()).expect("a listening socket enters the runtime")
}

/// Waits for ever without a listener.
async fn accept(listener: Option<&TcpListener>) -> (TcpStream, SocketAddr) {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        if let Ok((stream, peer)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            return (stream, peer);
        }
        tokio::task::yield_now().await;
    }
}
