//! Renders single templates for a host, without a playbook: units and configuration of a deploy.

use std::ops::Range;

use dunlin_shards::ShardMap;
use serde_json::{Map, Value as Json};
use tera::Context;

use super::compile::reserved_var_errors;
use super::context::FleetContext;
use super::decoys::TaintedContext;
use super::engine;
use super::secret_redactor::SecretRedactor;
use super::shards::ShardContext;
use super::template_errors::{TemplateLocator, template_diagnostics};
use super::templates::Templates;
use crate::inventory::{Diagnostic, Diagnostics, Inventory, Origin};
use crate::protocol::HostFacts;

/// Name under which the engine knows a text.
const TEXT_NAME: &str = "text";

/// Renders templates with what steps of a playbook see, but for a play's variables. Usable from several threads.
pub struct TemplateRenderer<'a> {
    inventory: &'a Inventory,
    templates: &'a Templates,
    fleet: FleetContext,
    secret_redactor: SecretRedactor,
}

/// A rendered template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedTemplate {
    /// Its text.
    pub text: String,
    /// The text contains a secret and must not be shown.
    pub has_secret: bool,
}

impl<'a> TemplateRenderer<'a> {
    /// Works out what all hosts share.
    ///
    /// # Errors
    /// Returns an error if a variable takes one of dunlin's own names, or a host of the shard map is not in the
    /// inventory.
    pub fn new(
        inventory: &'a Inventory,
        templates: &'a Templates,
        map: Option<&ShardMap>,
    ) -> Result<Self, Diagnostics> {
        let mut found = reserved_var_errors(inventory);
        let shards = map.map(|map| ShardContext::new(map, inventory)).transpose().unwrap_or_else(|error| {
            found.push(Diagnostic::error_at_path(&inventory.dir().join("shards.toml"), error.to_string()));
            None
        });
        if found.has_errors() {
            found.sort();
            return Err(found);
        }
        let secrets = inventory.secrets().expose_json();
        let fleet = FleetContext::new(inventory, &secrets, shards);
        Ok(Self { inventory, templates, fleet, secret_redactor: SecretRedactor::from_secrets(&secrets) })
    }

    /// Returns the inventory of the hosts.
    pub fn inventory(&self) -> &'a Inventory {
        self.inventory
    }

    /// Returns the words that must not be shown, for texts that hosts send.
    pub fn secret_redactor(&self) -> &SecretRedactor {
        &self.secret_redactor
    }

    /// Renders a template for a host. `extra` are further variables; they hide the inventory's of the same name. `by`
    /// is the place that wants it.
    ///
    /// # Errors
    /// Returns an error if there is no such host or template, or the engine finds a mistake, at its place in the
    /// template.
    pub fn render_template(
        &self,
        host: &str,
        facts: &HostFacts,
        template: &str,
        extra: &Map<String, Json>,
        by: &Origin,
    ) -> Result<RenderedTemplate, Vec<Diagnostic>> {
        let context = self.host_context(host, facts, extra, by)?;
        let text = self.templates.render_template(template, &context.real, by)?;
        let differs = |decoy| self.templates.render_template(template, decoy, by).ok().as_ref() != Some(&text);
        let secret = context.decoy.as_ref().is_some_and(differs)
            || self.templates.reads_secrets(template)
            || self.secret_redactor.is_secret_in(&text);
        Ok(RenderedTemplate { text, has_secret: secret })
    }

    /// Renders a text that has placeholders, as [`Self::render_template`] does a template.
    ///
    /// # Errors
    /// Returns an error if there is no such host, or the engine finds a mistake, at `by`.
    pub fn render_text(
        &self,
        host: &str,
        facts: &HostFacts,
        source: &str,
        extra: &Map<String, Json>,
        by: &Origin,
    ) -> Result<RenderedTemplate, Vec<Diagnostic>> {
        let context = self.host_context(host, facts, extra, by)?;
        let render = |context: &Context| {
            let mut tera = engine::new_engine();
            let rendered = tera.add_raw_template(TEXT_NAME, source).and_then(|()| tera.render(TEXT_NAME, context));
            rendered.map_err(|error| template_diagnostics(&error, &WholeText { source, origin: by }, by))
        };
        let text = render(&context.real)?;
        let differs = |decoy| render(decoy).ok().as_ref() != Some(&text);
        let has_secret = context.decoy.as_ref().is_some_and(differs) || self.secret_redactor.is_secret_in(&text);
        Ok(RenderedTemplate { text, has_secret })
    }

    fn host_context(
        &self,
        host: &str,
        facts: &HostFacts,
        extra: &Map<String, Json>,
        by: &Origin,
    ) -> Result<TaintedContext, Vec<Diagnostic>> {
        let Some(host) = self.inventory.find_host(host) else {
            return Err(vec![Diagnostic::error_at(by, format!("no host `{host}` in this inventory"))]);
        };
        let mut context = self.fleet.host_context(self.inventory, host, facts);
        for (name, value) in extra {
            context.insert(name, value, None);
        }
        Ok(context)
    }
}

/// Locates all errors of a text at the place that wants it.
struct WholeText<'a> {
    source: &'a str,
    origin: &'a Origin,
}

impl TemplateLocator for WholeText<'_> {
    fn template_source(&self, _template: &str) -> Option<&str> {
        Some(self.source)
    }

    fn locate_range(&self, _template: &str, _range: Range<usize>) -> Origin {
        self.origin.clone()
    }
}
