//! Endpoints of Services that a document names: how many of each are served.
//!
//! Written endpoints beyond the bounds are an error. Those of a Service change with its pods, so the document keeps its state and serves fewer of them: addresses that it
//! had before could belong to another Service now.

use std::net::SocketAddr;

use super::report::{Field, Report};
use crate::change::ServiceEndpoints;
use crate::place::At;
use crate::spec::service::ServiceSpec;

/// Returns the number of endpoints that each of several Services may have, so that all of them have at most `most`; one in any case. `sizes` are the numbers they have.
pub(super) fn share(sizes: &[usize], most: usize) -> usize {
    let fits = |share: usize| sizes.iter().map(|size| share.min(*size)).sum::<usize>() <= most;
    let (mut share, mut too_much) = (1, ServiceEndpoints::MOST + 1);
    while too_much - share > 1 {
        let middle = share.midpoint(too_much);
        *(if fits(middle) { &mut share } else { &mut too_much }) = middle;
    }
    share
}

/// Returns the endpoints of a Service that are served, and warns of others.
pub(super) fn served<'e>(
    report: &mut Report<'_>,
    service: &At<ServiceSpec>,
    field: &Field<'_>,
    found: &'e ServiceEndpoints,
    share: usize,
) -> &'e [SocketAddr] {
    let all = found.at();
    let served = &all[..all.len().min(share)];
    if found.has_more() || served.len() < all.len() {
        let sentence = format!(
            "{:?} has more than {} ready endpoints: only the first in the order of their addresses are served, run fewer pods or name the Service at fewer places",
            service.name.value,
            served.len()
        );
        report.warning("EndpointsLeftOut", service.name.place, &field.name("name"), &sentence);
    }
    served
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_small_services_do_not_need_large_ones_may_have() {
        for (sizes, most, expected) in [
            (&[][..], 10, 1024),
            (&[5, 5], 10, 1024),
            (&[1, 1, 1000], 10, 8),
            (&[1000, 1000], 10, 5),
            (&[1000; 20], 10, 1),
        ] {
            assert_eq!(share(sizes, most), expected, "{sizes:?}");
        }
    }
}
