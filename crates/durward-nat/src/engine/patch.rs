//! Fast path for a change of a few mappings: only those are computed, compared and cut.
//!
//! Taken only if nothing else has changed since everything was computed.

use std::sync::Arc;
use std::time::Instant;

use durward_model::mapping::NatModel;

use super::reconcile::sysctls;
use super::state::State;
use crate::conntrack::hygiene;
use crate::desired::patch::{Known, Patch, patch};
use crate::desired::{Ejected, Policy};
use crate::error::NatError;
use crate::mark;
use crate::nftables::TableError;
use crate::report::Report;

impl State {
    /// Patches the kernel from the last model to this one; `None` if everything must be computed.
    pub(super) fn apply_patch(
        &mut self,
        model: &Arc<NatModel>,
        ejected: &Ejected,
    ) -> Result<Option<Report>, NatError> {
        let Some(patch) = self.patch(model, ejected)? else { return Ok(None) };
        if !self.change_elements(&patch)? {
            return Ok(None);
        }
        self.model = Some(Arc::clone(model));
        self.ejected.clone_from(ejected);
        self.policy.exchange(&patch.before.policy, &patch.after.policy);
        let Some((_, report)) = &mut self.last else { return Ok(None) };
        report.mappings.splice(patch.place, patch.after.report.mappings);
        let mut report = report.clone();
        report.host.extend(sysctls(&patch.after.sysctls, self.options.set_sysctls));
        if let Some(routing) = &self.routing {
            report.host.extend(self.obstacles(routing)?);
        }
        self.restore_addresses(&mut report)?;
        report.connections_cut = self.cut_of(&patch.before.policy, &patch.after.policy)?;
        Ok(Some(report))
    }

    /// Computes the patch, if the mappings that differ suffice for it.
    fn patch(&self, model: &NatModel, ejected: &Ejected) -> Result<Option<Patch>, NatError> {
        let (Some(last), Some(held), Some((interfaces, report)), Some(_)) =
            (&self.model, &self.held, &self.last, &self.routing)
        else {
            return Ok(None);
        };
        let rejected = report.mappings.iter().any(|one| one.rejected.is_some());
        if rejected || !held.exists || !self.draining.is_empty() {
            return Ok(None);
        }
        if self.interfaces(model)? != *interfaces {
            return Ok(None);
        }
        let (ruleset, policy, options) = (&held.ruleset, &self.policy, &self.options);
        let known =
            Known { model: last, ejected: &self.ejected, ruleset, policy, options, interfaces };
        Ok(patch(&known, model, ejected))
    }

    /// Changes the table, unless another program has changed it meanwhile.
    fn change_elements(&mut self, patch: &Patch) -> Result<bool, NatError> {
        if patch.changes.is_empty() {
            return Ok(true);
        }
        let Some(mut held) = self.held.take() else { return Ok(false) };
        match self.table.change(held.generation, &patch.changes) {
            Ok(generation) => {
                self.own(generation);
                self.check.change(Instant::now());
                patch.changes.exchange_elements(&mut held.ruleset);
                held.generation = generation;
                self.held = Some(held);
                Ok(true)
            }
            // The cached table was outdated: the caller reads it again.
            Err(TableError::Outdated | TableError::Refused { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Cuts the connections of mappings that may not go on.
    fn cut_of(&mut self, before: &Policy, after: &Policy) -> Result<usize, NatError> {
        let mut flows = Vec::new();
        for tenant in before.tightened_in(after) {
            flows.extend(self.flows(mark::mark(tenant, 0, 0), mark::TENANT_MASK)?);
        }
        flows.retain(|flow| hygiene::is_mapped_by(flow, before));
        let (cut, drain) = hygiene::sort(flows, before, after);
        self.settle(cut, drain)
    }
}
