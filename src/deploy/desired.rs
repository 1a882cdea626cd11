//! Recipe × release × host → what the host is to serve, with the texts that go there. On the controller; no I/O.

use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::recipe::Recipe;
use crate::inventory::{Diagnostic, Diagnostics, Origin, SourceFile};
use crate::plan::Digest;
use crate::playbook::{Contents, Rendered, Rendering};
use crate::wire::Facts;
use crate::wire::deploy::{Config, Desired, Manifest, Setup, Unit};

/// What the hosts' states are made of.
pub struct Source<'a> {
    /// The recipe.
    pub recipe: &'a Recipe,
    /// Its file, for places in it.
    pub file: &'a SourceFile,
    /// The release.
    pub manifest: &'a Manifest,
    /// The templates.
    pub rendering: &'a Rendering<'a>,
}

/// The state of one host, and the bytes of its units and configuration.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The state.
    pub desired: Desired,
    /// The texts by digest.
    pub texts: Contents,
}

/// One template's text: digest, bytes, whether a secret went into it.
type Text = (Digest, u64, bool);

impl Source<'_> {
    /// The state for one host. Templates see `service` and `release` (`root`, `version`) besides the host's own names.
    ///
    /// # Errors
    /// Everything that is wrong with its templates.
    pub fn prepare(&self, host: &str, facts: &Facts) -> Result<Prepared, Diagnostics> {
        let (mut found, mut texts) = (Diagnostics::new(), Contents::new());
        let extra = self.variables();
        let mut text = |src: &Path, span: &Range<usize>, found: &mut Diagnostics| {
            let by = Origin::at(self.file, span.clone());
            let rendered = self.rendering.render((host, facts), &src.to_string_lossy(), &extra, &by);
            let wrong = |wrong: Vec<Diagnostic>| wrong.into_iter().for_each(|diagnostic| found.push(diagnostic));
            rendered.map(|rendered| keep(rendered, &mut texts)).map_err(wrong).ok()
        };
        let (mut units, mut configs) = (Vec::new(), Vec::new());
        for unit in &self.recipe.units {
            let Some((digest, size, secret)) = text(&unit.src, &unit.span, &mut found) else { continue };
            if secret {
                let said = "a secret goes into this unit, and every account of a host can read units";
                found.push(Diagnostic::at(self.file, unit.span.clone(), said).help(
                    "put it into a `[[config]]` with `sensitive = true`, and let the unit read that \
                     (EnvironmentFile=, LoadCredential=)",
                ));
            }
            let (name, enable, restart) = (unit.name.clone(), unit.enable, unit.restart);
            units.push(Unit { name, digest, size, enable, restart });
        }
        for config in &self.recipe.configs {
            let Some((digest, size, secret)) = text(&config.src, &config.span, &mut found) else { continue };
            if secret && !config.sensitive {
                let said = "a secret goes into this file, and its text would be shown";
                found.push(Diagnostic::at(self.file, config.span.clone(), said).help("say `sensitive = true`"));
            }
            let (dest, owner, group) = (config.dest.clone(), config.owner.clone(), config.group.clone());
            configs.push(Config { dest, digest, size, mode: config.mode, owner, group, sensitive: config.sensitive });
        }
        if found.has_errors() {
            found.sort();
            return Err(found);
        }
        let Recipe { health, drain, user, .. } = self.recipe.clone();
        let setup = Setup { units, configs, health, drain, user };
        Ok(Prepared { desired: Desired { manifest: self.manifest.clone(), setup }, texts })
    }

    fn variables(&self) -> Map<String, Json> {
        let release = json!({"root": self.recipe.root, "version": self.manifest.version});
        let service = json!(self.recipe.service);
        [("service".to_owned(), service), ("release".to_owned(), release)].into_iter().collect()
    }
}

/// Takes a text over.
fn keep(rendered: Rendered, texts: &mut Contents) -> Text {
    let bytes = rendered.text.into_bytes();
    let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
    texts.insert(digest.clone(), bytes.into());
    (digest, size, rendered.secret)
}
