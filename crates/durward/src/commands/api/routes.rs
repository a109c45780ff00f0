//! `durward api routes`: the routes of hosted API servers for the ingress controllers of others, as `durward api-addons` writes them.

use durward_control::document::Content;
use durward_control::spec::publish;
use durward_control::{FileSource, RoutingJsonOptions};
use serde_json::Value;

use crate::cli::ApiRoutes;
use crate::failure::{Exit, Failure};
use crate::output::Screen;

/// Prints the routes of all documents that ask for some, as YAML.
pub(super) fn routes(arguments: &ApiRoutes) -> Result<Exit, Failure> {
    let missing = arguments.config.iter().find(|path| !path.exists());
    if let Some(path) = missing {
        return Err(invalid(format!("{} does not exist", path.display())));
    }
    let store = FileSource::new(RoutingJsonOptions::default()).load(&arguments.config);
    let mut objects = Vec::new();
    for document in store.documents() {
        match &document.content {
            Content::HostedApi(hosted) => {
                let name = hosted.metadata.name.as_str();
                let made = publish::objects(name, &hosted.spec).map_err(|faults| {
                    let all =
                        faults.iter().map(|fault| format!("{} {}", fault.field, fault.sentence));
                    invalid(format!("HostedApi {name}: {}", all.collect::<Vec<_>>().join("; ")))
                })?;
                objects.extend(made);
            }
            Content::Broken(_) => {
                return Err(invalid(format!(
                    "{} has a document that cannot be read: see durward validate",
                    document.source.file
                )));
            }
            _ => {}
        }
    }
    if objects.is_empty() {
        return Err(invalid(
            "no HostedApi has publish: write publish: {controller: Traefik}".to_owned(),
        ));
    }
    print(&objects, arguments)
}

fn print(objects: &[Value], arguments: &ApiRoutes) -> Result<Exit, Failure> {
    let mut screen = Screen::stdout();
    for object in objects {
        let mut object = object.clone();
        if let (Some(version), true) = (&arguments.tls_route_version, object["kind"] == "TLSRoute")
        {
            object["apiVersion"] = format!("gateway.networking.k8s.io/{version}").into();
        }
        let text = serde_saphyr::to_string(&object)
            .map_err(|error| Failure::broken("writing YAML", error))?;
        screen.text(&format!("---\n{text}"))?;
    }
    Ok(Exit::Ok)
}

fn invalid(message: String) -> Failure {
    Failure::InvalidConfig { message }
}
