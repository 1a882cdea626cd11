//! `secrets.toml`, edited without a change to other lines.

use std::path::Path;

use anyhow::{Context, Result, bail};
use toml_edit::{DocumentMut, Item, Table, value};

use super::authority::IssuedCertificate;
use crate::inventory::certificate_table_key;

/// The file as a document that can be edited.
pub struct SecretsDocument(DocumentMut);

impl SecretsDocument {
    /// Loads the file; an absent one is empty.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or is not valid TOML.
    pub fn load(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.with_context(|| path.display().to_string())?,
        };
        // An error of the parser would show the line, which has a secret.
        text.parse().map(Self).map_err(|_| anyhow::anyhow!("{}: not valid TOML", path.display()))
    }

    /// Sets the CA, or adds it to those that the secrets have.
    ///
    /// # Errors
    /// Returns an error if the file has a value in the place of a table.
    pub fn add_ca(&mut self, pem: &str, is_first: bool) -> Result<()> {
        let table = find_table(self.0.as_table_mut(), &["redis", "tls"])?;
        let before = table.get("ca").and_then(Item::as_str).filter(|_| !is_first).unwrap_or_default().trim_end();
        let text = if before.is_empty() { pem.to_owned() } else { format!("{before}\n{pem}") };
        table.insert("ca", value(text));
        Ok(())
    }

    /// Sets the certificate and the key of a host.
    ///
    /// # Errors
    /// Returns an error under the same conditions as [`Self::add_ca`].
    pub fn set_certificate(&mut self, host: &str, issued: &IssuedCertificate) -> Result<()> {
        let key = certificate_table_key(host);
        let table = find_table(self.0.as_table_mut(), &["redis", "tls", "hosts", &key])?;
        table.insert("certificate", value(issued.certificate.clone()));
        table.insert("key", value(issued.key.clone()));
        Ok(())
    }

    /// Returns the text, which is valid TOML.
    ///
    /// # Errors
    /// Returns an error if the tables are written with dotted keys, which the edits do not fit.
    pub fn to_text(&self) -> Result<String> {
        let text = self.0.to_string();
        let is_valid = text.parse::<DocumentMut>().is_ok();
        if !is_valid {
            bail!("secrets.toml: write `redis` as tables ([redis], [redis.tls]), not with dotted keys");
        }
        Ok(text)
    }
}

fn find_table<'t>(table: &'t mut Table, path: &[&str]) -> Result<&'t mut Table> {
    path.iter().try_fold(table, |table, name| {
        let item = table.entry(name).or_insert_with(|| {
            let mut created = Table::new();
            created.set_implicit(true);
            Item::Table(created)
        });
        item.as_table_mut().with_context(|| format!("secrets.toml: write `{name}` as a table of its own, [… .{name}]"))
    })
}
