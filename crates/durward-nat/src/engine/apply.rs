//! Applies a new model, or a new set of ejected endpoints: by a patch of the changed mappings where that is possible, else as a whole.
//!
//! A state that the kernel refuses is not kept, so that a repair restores the one being served.

use std::sync::Arc;
use std::time::Instant;

use durward_model::mapping::NatModel;

use super::state::State;
use crate::desired::{Desired, Difference, Ejected, Policy, desired_without, diff};
use crate::error::NatError;
use crate::report::Report;
use crate::sysctl::{self, REMEMBERED};

impl State {
    pub(super) fn apply(&mut self, model: Arc<NatModel>) -> Result<Report, NatError> {
        let model = self.numbered(model);
        // Until the first apply the ejections are those in the table of an earlier process, which may have changed since the start.
        let is_first = self.policy == Policy::default();
        let ejected = if is_first && model.mappings.iter().any(|one| one.health_check.is_some()) {
            Ejected::found(&self.table.read()?.ruleset, &model)
        } else {
            self.ejected.within(&model)
        };
        self.bring(model, ejected)
    }

    /// Ejects these endpoints of the present model, and puts all others back into rotation.
    pub(super) fn eject(&mut self, ejected: &Ejected) -> Result<(), NatError> {
        let Some(model) = self.model.clone() else { return Ok(()) };
        let ejected = ejected.within(&model);
        if ejected == self.ejected {
            return Ok(());
        }
        self.bring(model, ejected).map(|_| ())
    }

    /// Brings the kernel to a model without some of its endpoints.
    fn bring(&mut self, model: Arc<NatModel>, ejected: Ejected) -> Result<Report, NatError> {
        if let Some(report) = self.apply_patch(&model, &ejected)? {
            self.health.record(&Ok::<_, NatError>(report.clone()));
            return Ok(report);
        }
        let numbers = model.tenants.clone();
        let former = self.model.replace(model);
        let out = std::mem::replace(&mut self.ejected, ejected);
        let result = self.reconcile();
        if result.is_err() && former.is_some() {
            // The kernel still has the former model; repairs must not change that.
            (self.model, self.ejected) = (former, out);
        } else {
            self.renumber(numbers, Instant::now());
        }
        result
    }

    pub(super) fn preview(&self, model: &NatModel) -> Result<(Desired, Difference), NatError> {
        let model = self.numbered(Arc::new(model.clone()));
        let (options, interfaces) = (self.options_for(&model)?, self.interfaces(&model)?);
        let held = self.table.read()?;
        let ejected = Ejected::found(&held.ruleset, &model);
        let mut wanted = desired_without(&model, &ejected, &options, &interfaces);
        if let (Some(old), Some(new)) =
            (held.ruleset.sets.get(REMEMBERED), wanted.ruleset.sets.get_mut(REMEMBERED))
        {
            new.elements.clone_from(&old.elements);
        }
        let mut difference = diff((&held.ruleset, &self.read_routing()?), &wanted);
        if self.options.set_sysctls {
            difference.sysctls = sysctl::wrong(&wanted.sysctls);
        }
        Ok((wanted, difference))
    }
}
