//! Real sockets on 127/8: origins on 127.0.0.1, tenants' sources beside it.

mod connecting;
mod crowding;
mod health;
mod http2;
mod names;
mod pooling;
mod support;
mod tls;
