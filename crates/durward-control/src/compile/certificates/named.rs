//! Bytes behind the names that a document writes, and on whose behalf they are looked up.

use durward_model::TenantId;

use super::super::report::{Field, Report};
use super::Files;
use crate::change::ServiceEndpoints;
use crate::cluster::ObjectFault;
use crate::document::tenant_viewpoint;
use crate::place::Place;
use crate::spec::object_name::{self, EntryName, WrittenName};
use crate::spec::service::ServiceSpec;
use crate::spec::tenant::TenantSpec;
use crate::store::{Asker, Found};

impl<'a> Files<'a> {
    /// Looks objects up on behalf of a tenant's document from now on.
    pub(crate) fn ask_for(&mut self, tenant: &TenantId, spec: &TenantSpec) {
        let viewpoint = tenant_viewpoint(spec, tenant.as_str());
        self.asker = Some(Asker { tenant: tenant.clone(), viewpoint });
    }

    /// Sets the document on whose behalf names of objects are looked up from now on.
    pub(crate) fn ask_as(&mut self, asker: Option<Asker>) {
        self.asker = asker;
    }

    /// Returns whether the document was denied an object since this was last asked: what it had of that before is no more its own.
    pub(crate) fn was_denied(&mut self) -> bool {
        std::mem::take(&mut self.is_denied)
    }

    /// Returns the endpoints of a port of a Service.
    pub(crate) fn endpoints(
        &self,
        spec: &ServiceSpec,
    ) -> Result<&'a ServiceEndpoints, ObjectFault> {
        let asker = self.asker.as_ref().ok_or(ObjectFault::NotRead)?;
        self.store.endpoints(asker, spec)
    }

    /// Returns the bytes behind a written name, be it that of a file or of an entry of a Secret or `ConfigMap`; `None` after an error.
    pub(super) fn bytes(
        &mut self,
        report: &mut Report<'_>,
        written: &str,
        place: Place,
        field: &Field<'_>,
    ) -> Option<Found<'a>> {
        let file = match object_name::parse(written) {
            Ok(WrittenName::File(file)) => file,
            Ok(WrittenName::Entry(entry)) => {
                return self.entry(report, (&entry, written), place, field);
            }
            Err(fault) => {
                report.error("BadReference", place, field, &format!("{written:?} {fault}"));
                return None;
            }
        };
        match self.store.file(report.source(), file) {
            Ok(found) => {
                if found.writable_by_all {
                    let path = found.place.to_path();
                    let path = path.display();
                    let sentence =
                        format!("every user of this host may change {written:?}: chmod o-w {path}");
                    report.warning("WritableByAll", place, field, &sentence);
                }
                Some(found)
            }
            Err(fault) => {
                report.error(fault.reason(), place, field, &format!("{written:?} {fault}"));
                None
            }
        }
    }

    /// Returns whether what stands for the entries of a Secret is one for certificates; reports an error if not.
    pub(super) fn is_tls_secret(
        &self,
        report: &mut Report<'_>,
        written: &str,
        place: Place,
        field: &Field<'_>,
    ) -> bool {
        let (Ok(WrittenName::Entry(entry)), Some(asker)) =
            (object_name::parse(written), self.asker.as_ref())
        else {
            return true;
        };
        match self.store.check_tls_secret(asker, &entry) {
            Ok(()) => true,
            Err(fault) => {
                report.error(fault.reason(), place, field, &format!("{written:?} {fault}"));
                false
            }
        }
    }

    fn entry(
        &mut self,
        report: &mut Report<'_>,
        (entry, written): (&EntryName<'_>, &str),
        place: Place,
        field: &Field<'_>,
    ) -> Option<Found<'a>> {
        let store = self.store;
        let asker = self.asker.as_ref().ok_or(ObjectFault::NotRead);
        match asker.and_then(|asker| store.entry(asker, entry)) {
            Ok(found) => Some(found),
            Err(fault) => {
                self.is_denied |= fault.is_denial();
                report.error(fault.reason(), place, field, &format!("{written:?} {fault}"));
                None
            }
        }
    }
}
