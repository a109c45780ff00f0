//! The tenant cluster's half of hosted API servers: a proxy that pods and nodes reach as `kubernetes.default.svc`, and the checks around it.
//!
//! The proxy carries the client's TLS untouched inside an outer TLS connection to the gateway ([`serve`], [`gateways`]), so the API server sees the
//! client's own certificate and HTTP/2. The crate knows sockets and certificates; who writes EndpointSlices is `durward-kube`'s matter.

pub mod address;
pub mod certificate;
mod connection_id;
pub mod dns;
pub mod gateways;
mod http_proxy;
pub mod kubeconfig;
pub mod metrics;
pub mod proxy_header;
mod relay;
pub mod resolve;
pub mod serve;
pub mod settings;
mod stream;
pub mod tls;

pub use serve::Proxy;
pub use settings::Settings;
