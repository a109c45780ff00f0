#![cfg(test)]
//! The proxy between API clients and gateways: TLS servers stand in for both gateway and API server.

mod carried;
mod certificates;
mod choosing;
mod http_proxy;
mod lifecycle;
mod reoriginated;
mod stage;
