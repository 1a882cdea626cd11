//! Recipe × release × host → what the host is to serve, with the texts that go there. On the controller; no I/O.

use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::host_selection::select_parts;
use super::recipe::Recipe;
use crate::inventory::{Diagnostic, Diagnostics, Origin, SourceFile};
use crate::plan::Digest;
use crate::playbook::{ContentMap, RenderedTemplate, TemplateRenderer};
use crate::protocol::HostFacts;
use crate::protocol::deploy::{
    ConfigFile, DesiredState, HealthProbe, ReleaseManifest, ServiceConfig, SignatureCheck, UnitFile,
};

/// Holds the inputs from which the hosts' states are computed.
pub struct ReleaseSource<'a> {
    /// The recipe.
    pub recipe: &'a Recipe,
    /// Its file, for places in it.
    pub file: &'a SourceFile,
    /// The release.
    pub manifest: &'a ReleaseManifest,
    /// Signature of the manifest, if it has one.
    pub signature: Option<&'a str>,
    /// The templates.
    pub rendering: &'a TemplateRenderer<'a>,
}

/// The state of one host, and the bytes of its units and configuration.
#[derive(Clone, Debug)]
pub struct PreparedHost {
    /// The state.
    pub desired: DesiredState,
    /// The texts by digest.
    pub texts: ContentMap,
    /// TCP ports on which the host's units listen.
    pub listen_ports: Vec<u16>,
}

/// Rendered text of a template: digest, bytes, and whether it contains a secret.
type RenderedText = (Digest, u64, bool);

impl ReleaseSource<'_> {
    /// Builds the state for one host. Templates see `service` and `release` (`root`, `version`) in addition to the
    /// host's own names.
    ///
    /// # Errors
    /// Returns all errors of the host's templates.
    pub fn prepare_host(&self, host: &str, facts: &HostFacts) -> Result<PreparedHost, Diagnostics> {
        let (mut found, mut texts) = (Diagnostics::new(), ContentMap::new());
        let extra = self.template_variables();
        let mut text = |src: &Path, span: &Range<usize>, found: &mut Diagnostics| {
            let origin = Origin::at_span(self.file, span.clone());
            let rendered = self.rendering.render_template(host, facts, &src.to_string_lossy(), &extra, &origin);
            let wrong = |wrong: Vec<Diagnostic>| wrong.into_iter().for_each(|diagnostic| found.push(diagnostic));
            rendered.map(|rendered| store_text(rendered, &mut texts)).map_err(wrong).ok()
        };
        let (mut units, mut configs) = (Vec::new(), Vec::new());
        let recipe = select_parts(self.recipe, host, self.rendering.inventory(), self.file, &mut found);
        for unit in &recipe.units {
            let Some((digest, size, secret)) = text(&unit.src, &unit.span, &mut found) else { continue };
            if secret {
                let message = "a secret goes into this unit, and every account of a host can read units";
                found.push(Diagnostic::error_at_span(self.file, unit.span.clone(), message).with_help(
                    "put it into a `[[config]]` with `sensitive = true`, and let the unit read that \
                     (EnvironmentFile=, LoadCredential=)",
                ));
            }
            let secret = "a secret goes into the name of this unit, and every account of a host can read it";
            let render = |text: &str| {
                let rendered = self.render_value(host, facts, text, &unit.span, secret);
                rendered.map_err(|message| format!("instances: {message}"))
            };
            let names = match unit.list_unit_names(render) {
                Ok(names) => names,
                Err(message) => {
                    found.push(Diagnostic::error_at_span(self.file, unit.span.clone(), message));
                    continue;
                }
            };
            for name in names {
                if units.iter().any(|other: &UnitFile| other.name == name) {
                    let message = format!("two units have the name {name}");
                    found.push(Diagnostic::error_at_span(self.file, unit.span.clone(), message));
                }
                units.push(UnitFile {
                    template: unit.instances.is_some().then(|| unit.name.clone()),
                    name,
                    digest: digest.clone(),
                    size,
                    start_at_boot: unit.enable,
                    restart_on_release: unit.restart,
                    reload_on_release: unit.reload,
                });
            }
        }
        for config in &recipe.configs {
            let Some((digest, size, secret)) = text(&config.src, &config.span, &mut found) else { continue };
            if secret && !config.sensitive {
                let said = "a secret goes into this file, and its text would be shown";
                found.push(
                    Diagnostic::error_at_span(self.file, config.span.clone(), said).with_help("say `sensitive = true`"),
                );
            }
            let (dest, owner, group) = (config.dest.clone(), config.owner.clone(), config.group.clone());
            configs.push(ConfigFile {
                dest,
                digest,
                size,
                mode: config.mode,
                owner,
                group,
                sensitive: config.sensitive,
            });
        }
        let listen_ports = recipe.listen_ports();
        let Recipe { mut health, health_span, hooks, user, shared, .. } = recipe;
        if let Some(HealthProbe::Http { expect: Some(expect), .. }) = &mut health.probe {
            let secret = "a secret goes into `expect`, and plans and messages show it";
            match self.render_value(host, facts, expect, &health_span, secret) {
                Ok(rendered) => *expect = rendered,
                Err(message) => {
                    found.push(Diagnostic::error_at_span(self.file, health_span, format!("expect: {message}")));
                }
            }
        }
        if found.has_errors() {
            found.sort();
            return Err(found);
        }
        let setup = ServiceConfig { units, configs, health, hooks, user, adopted: None, shared };
        let signature_check = SignatureCheck {
            public_keys: self.recipe.public_keys.clone(),
            signature: self.signature.filter(|_| !self.recipe.public_keys.is_empty()).map(str::to_owned),
        };
        let desired = DesiredState { manifest: self.manifest.clone(), config: setup, signature_check };
        Ok(PreparedHost { desired, texts, listen_ports })
    }

    /// Renders a value of the recipe for a host; `secret` is the error for a value with a secret.
    fn render_value(
        &self,
        host: &str,
        facts: &HostFacts,
        text: &str,
        span: &Range<usize>,
        secret: &str,
    ) -> Result<String, String> {
        let origin = Origin::at_span(self.file, span.clone());
        let rendered = self.rendering.render_text(host, facts, text, &self.template_variables(), &origin);
        let first_message = |wrong: Vec<Diagnostic>| wrong.into_iter().next().map(|first| first.message);
        let rendered = rendered.map_err(|wrong| first_message(wrong).unwrap_or_default())?;
        if rendered.has_secret { Err(secret.to_owned()) } else { Ok(rendered.text) }
    }

    fn template_variables(&self) -> Map<String, Json> {
        let release = json!({"root": self.recipe.root, "version": self.manifest.version});
        let service = json!(self.recipe.service);
        [("service".to_owned(), service), ("release".to_owned(), release)].into_iter().collect()
    }
}

/// Takes a text over.
fn store_text(rendered: RenderedTemplate, texts: &mut ContentMap) -> RenderedText {
    let bytes = rendered.text.into_bytes();
    let (digest, size) = (Digest::of_bytes(&bytes), bytes.len() as u64);
    texts.insert(digest.clone(), bytes.into());
    (digest, size, rendered.has_secret)
}
