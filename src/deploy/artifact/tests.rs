//! Artifacts that are whole come back; any other is refused before a byte of it is used.

use std::fs;
use std::path::Path;

use proptest::prelude::{ProptestConfig, any, proptest};

use super::unpack;
use super::{Artifact, ArtifactError, FILES_DIR, MANIFEST_NAME, UnpackedArtifact, build_artifact, default_version};
use crate::deploy::recipe::Recipe;
use crate::fleet::ContentFile;
use crate::messages;
use crate::plan::Digest;
use crate::protocol::deploy::{ReleaseManifest, ReleasePath, ReleaseVersion, SharedPath};

const RECIPE: &str = r#"
service = "demo"
hosts = "app"
root = "/srv/demo"
[[file]]
source = "build/demo"
dest = "bin/demo"
[[file]]
source = "static"
dest = "static"
mode = "0444"
"#;

fn write_sources(base: &Path) -> Recipe {
    fs::create_dir_all(base.join("build")).unwrap();
    fs::create_dir_all(base.join("static/deep")).unwrap();
    fs::write(base.join("build/demo"), b"#!/bin/sh\n").unwrap();
    fs::set_permissions(base.join("build/demo"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    fs::write(base.join("static/a.txt"), "a").unwrap();
    fs::write(base.join("static/deep/b.txt"), "b".repeat(100_000)).unwrap();
    Recipe::parse(RECIPE).unwrap()
}

fn parse_version(text: &str) -> ReleaseVersion {
    ReleaseVersion::new(text).unwrap()
}

#[test]
fn the_same_inputs_give_the_same_bytes_and_round_trip() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let built = build_artifact(&write_sources(one.path()), one.path(), &parse_version("1.0"), &one.path().join("dist"))
        .unwrap();
    let again =
        build_artifact(&write_sources(other.path()), other.path(), &parse_version("1.0"), &other.path().join("dist"))
            .unwrap();
    assert_eq!(fs::read(&built.path).unwrap(), fs::read(&again.path).unwrap());
    assert_eq!(built.path.file_name().unwrap(), "demo-1.0.tar.zst");
    let UnpackedArtifact { artifact: opened, contents } = Artifact::open(&built.path).unwrap();
    assert_eq!(opened, built);
    let shown: Vec<(&str, u32)> = opened.manifest.files.iter().map(|file| (file.path.as_str(), file.mode)).collect();
    assert_eq!(shown, [("bin/demo", 0o755), ("static/a.txt", 0o444), ("static/deep/b.txt", 0o444)]);
    assert_eq!(contents.read_beginning(&Digest::of_bytes(b"a"), u64::MAX).unwrap().unwrap(), b"a");
}

#[test]
fn links_and_empty_folders_are_content_and_links_out_of_the_release_are_refused() {
    use std::os::unix::fs::symlink;
    let base = tempfile::tempdir().unwrap();
    let recipe = write_sources(base.path());
    symlink("../a.txt", base.path().join("static/deep/link")).unwrap();
    // As in a virtual environment of Python.
    symlink("/usr/bin/python3", base.path().join("static/deep/python3")).unwrap();
    fs::create_dir(base.path().join("static/deep/include")).unwrap();
    let built = build_artifact(&recipe, base.path(), &parse_version("1.0"), &base.path().join("dist")).unwrap();
    let opened = Artifact::open(&built.path).unwrap().artifact;
    let links: Vec<_> = opened.manifest.links.iter().map(|link| (link.path.as_str(), link.target.as_str())).collect();
    assert_eq!(links, [("static/deep/link", "../a.txt"), ("static/deep/python3", "/usr/bin/python3")]);
    assert_eq!(
        opened.manifest.folders.iter().map(|folder| folder.path.as_str()).collect::<Vec<_>>(),
        ["static/deep/include"]
    );
    for target in ["/etc/passwd", "../../../outside"] {
        fs::remove_file(base.path().join("static/deep/link")).unwrap();
        symlink(target, base.path().join("static/deep/link")).unwrap();
        let error = build_artifact(&recipe, base.path(), &parse_version("1.1"), &base.path().join("dist"));
        assert!(error.map(drop).unwrap_err().to_string().contains(target));
    }
}

#[test]
fn another_content_under_a_version_in_use_is_refused() {
    let base = tempfile::tempdir().unwrap();
    let recipe = write_sources(base.path());
    let build = || build_artifact(&recipe, base.path(), &parse_version("1.0"), &base.path().join("dist"));
    let first = build().unwrap();
    assert_eq!(build().unwrap(), first);
    fs::write(base.path().join("static/a.txt"), "changed").unwrap();
    let error = build().unwrap_err();
    assert!(error.downcast_ref::<super::VersionTaken>().is_some(), "{error:#}");
}

#[test]
fn content_at_a_shared_path_is_refused() {
    let base = tempfile::tempdir().unwrap();
    let recipe = Recipe { shared: vec![shared_folder("static/deep")], ..write_sources(base.path()) };
    let dist = base.path().join("dist");
    let error = build_artifact(&recipe, base.path(), &parse_version("1.0"), &dist).unwrap_err();
    let conflict = error.downcast_ref::<super::SharedContent>().unwrap();
    assert!(conflict.to_string().contains("static/deep is shared by all releases"), "{conflict}");
    assert!(!dist.exists(), "nothing was packaged");
    let recipe = Recipe { shared: vec![shared_folder("uploads")], ..recipe };
    build_artifact(&recipe, base.path(), &parse_version("1.0"), &dist).unwrap();
}

fn shared_folder(path: &str) -> SharedPath {
    SharedPath { path: ReleasePath::new(path).unwrap(), is_folder: true }
}

#[test]
fn all_missing_sources_are_reported() {
    let base = tempfile::tempdir().unwrap();
    let text = format!("{RECIPE}\n[[file]]\nsource = \"nothing\"\ndest = \"x\"\n");
    let error =
        build_artifact(&Recipe::parse(&text).unwrap(), base.path(), &parse_version("1"), base.path()).unwrap_err();
    let missing = error.downcast_ref::<super::MissingSources>().unwrap();
    assert_eq!(missing.sources.len(), 3, "{missing}");
    assert!(text[missing.sources[2].0.clone()].contains("file"), "{missing:?}");
}

#[test]
fn a_file_cannot_be_a_folder_too() {
    let base = tempfile::tempdir().unwrap();
    write_sources(base.path());
    let text = RECIPE.replace("dest = \"bin/demo\"", "dest = \"static/deep\"");
    let error =
        build_artifact(&Recipe::parse(&text).unwrap(), base.path(), &parse_version("1"), base.path()).unwrap_err();
    messages::check("package-file-and-folder", [("static/deep", error)]);
}

#[test]
fn a_default_version_is_derived() {
    let base = tempfile::tempdir().unwrap();
    let recipe = write_sources(base.path());
    let plain = default_version(&recipe, base.path()).unwrap();
    assert_eq!(plain.as_str().len(), 12, "outside of a repository: {plain}");
    let git = |args: &[&str]| {
        let who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
        let done = std::process::Command::new("git").args(who).args(args).current_dir(base.path()).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-qm", "x"]);
    git(&["tag", "v1.2"]);
    assert_eq!(default_version(&recipe, base.path()).unwrap().as_str(), "v1.2");
    fs::write(base.path().join("static/a.txt"), "changed").unwrap();
    let dirty = default_version(&recipe, base.path()).unwrap();
    assert!(dirty.as_str().starts_with("v1.2-dirty."), "{dirty}");
    fs::write(base.path().join("static/a.txt"), "changed again").unwrap();
    assert_ne!(default_version(&recipe, base.path()).unwrap(), dirty);
}

/// Returns the manifest of an artifact, and the contents that it names.
fn unpack_artifact(packed: &[u8]) -> Result<(ReleaseManifest, Vec<Vec<u8>>), ArtifactError> {
    let mut contents = ContentFile::create(&std::env::temp_dir()).unwrap();
    let manifest = unpack::unpack_artifact(packed, &mut contents)?;
    let read =
        |file: &crate::protocol::deploy::ReleaseFile| contents.read_beginning(&file.sha256, u64::MAX).unwrap().unwrap();
    let files = manifest.files.iter().map(read).collect();
    Ok((manifest, files))
}

/// One entry of a crafted archive.
struct Crafted {
    name: &'static str,
    kind: tar::EntryType,
    mode: u32,
    bytes: &'static [u8],
}

fn archive_file(name: &'static str, bytes: &'static [u8]) -> Crafted {
    Crafted { name, kind: tar::EntryType::Regular, mode: 0o644, bytes }
}

fn craft_archive(manifest: &str, entries: &[Crafted]) -> Vec<u8> {
    let mut archive = tar::Builder::new(zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap());
    let mut put = |name: &str, kind, mode, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        // Written by hand: the library refuses to write the names that a hostile archive would have.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        if kind == tar::EntryType::Symlink {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        archive.append(&header, bytes).unwrap();
    };
    put(MANIFEST_NAME, tar::EntryType::Regular, 0o644, manifest.as_bytes());
    for entry in entries {
        put(entry.name, entry.kind, entry.mode, entry.bytes);
    }
    archive.into_inner().unwrap().finish().unwrap()
}

fn manifest_json(files: &[(&str, &[u8])]) -> String {
    let files: Vec<serde_json::Value> = files
        .iter()
        .map(|(path, bytes)| {
            serde_json::json!({"path": path, "mode": 0o644, "size": bytes.len(), "sha256": Digest::of_bytes(bytes)})
        })
        .collect();
    serde_json::json!({"format_version": 1, "service": "demo", "version": "1", "files": files}).to_string()
}

#[test]
fn invalid_archives_are_rejected_with_the_entry_name() {
    let one = manifest_json(&[("a", b"1")]);
    let whole = craft_archive(&one, &[archive_file("files/a", b"1")]);
    unpack_artifact(&whole).unwrap();
    let link = Crafted { name: "files/a", kind: tar::EntryType::Symlink, mode: 0o644, bytes: b"" };
    let folder = Crafted { name: "files/a", kind: tar::EntryType::Directory, mode: 0o644, bytes: b"" };
    let mode = Crafted { mode: 0o4755, ..archive_file("files/a", b"1") };
    let edited = |from: &str, to: &str| craft_archive(&one.replace(from, to), &[archive_file("files/a", b"1")]);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (craft_archive(&one, &[archive_file("files/a", b"2")]), "digest"),
        (craft_archive(&one, &[archive_file("files/a", b"11")]), "2 bytes"),
        (craft_archive(&one, &[]), "lacks a"),
        (craft_archive(&one, &[archive_file("files/a", b"1"), archive_file("files/b", b"1")]), "not in the manifest"),
        (craft_archive(&one, &[archive_file("files/a", b"1"), archive_file("files/a", b"1")]), "not in the manifest"),
        (craft_archive(&one, &[archive_file("files/../a", b"1")]), "due here"),
        (craft_archive(&one, &[archive_file("/files/a", b"1")]), "due here"),
        (craft_archive(&one, &[archive_file("../../etc/passwd", b"1")]), "due here"),
        (craft_archive(&one, &[link]), "not a regular file"),
        (craft_archive(&one, &[folder]), "not a regular file"),
        (craft_archive(&one, &[mode]), "mode"),
        (craft_archive(&manifest_json(&[("../a", b"1")]), &[archive_file("files/../a", b"1")]), "`..`"),
        (craft_archive(&manifest_json(&[("/a", b"1")]), &[archive_file("files//a", b"1")]), "absolute"),
        (craft_archive(&manifest_json(&[(".dunlin/x", b"1")]), &[archive_file("files/.dunlin/x", b"1")]), "records"),
        (craft_archive(&manifest_json(&[("b", b"1"), ("a", b"1")]), &[]), "sorted"),
        (craft_archive(&manifest_json(&[("a", b"1"), ("a", b"1")]), &[]), "twice"),
        (craft_archive(&manifest_json(&[("a", b"1"), ("a/b", b"1")]), &[]), "a is a file, and a/b is in it"),
        (edited("\"version\":\"1\"", "\"version\":\"../1\""), "no version"),
        (edited("\"service\":\"demo\"", "\"service\":\"x/y\""), "service"),
        (edited("\"format_version\":1", "\"format_version\":2"), "format_version"),
        (edited("\"format_version\":1", "\"more\":1,\"format_version\":1"), "unknown field"),
        (edited("\"size\":1", "\"size\":99999999999"), "too long"),
        (edited("\"mode\":420", "\"mode\":2541"), "set-id"),
        (craft_archive("not json", &[]), "manifest"),
        (b"not zstd".to_vec(), "not a complete artifact"),
        (whole[..whole.len() - 6].to_vec(), "not a complete artifact"),
        (Vec::new(), "empty"),
    ];
    let errors = cases.iter().map(|(bytes, case)| {
        let error = unpack_artifact(bytes).expect_err(&format!("{case} was taken"));
        (case, format!("{:#}", anyhow::Error::from(error)))
    });
    messages::check("artifact-errors", errors.collect::<Vec<_>>());
    assert_eq!(FILES_DIR, "files");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A flipped bit anywhere is refused, or changes nothing that is used (zstd has bits without a meaning).
    #[test]
    fn a_flipped_bit_never_changes_a_release(at in any::<proptest::sample::Index>(), bit in 0_u8..8) {
        let mut bytes = craft_archive(&manifest_json(&[("a", b"1"), ("b", b"22")]), &[archive_file("files/a", b"1"), archive_file("files/b", b"22")]);
        let whole = unpack_artifact(&bytes).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(read) = unpack_artifact(&bytes) {
            assert_eq!(read.1, whole.1, "byte {at}, bit {bit}");
        }
    }

    /// No bytes make it panic.
    #[test]
    fn garbage_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        assert!(unpack_artifact(&bytes).is_err());
        let packed = zstd::bulk::compress(&bytes, 1).unwrap();
        assert!(unpack_artifact(&packed).is_err());
    }
}

#[test]
fn a_long_name_has_a_limit() {
    let mut archive = tar::Builder::new(zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(1 << 30);
    header.set_cksum();
    archive.append(&header, std::io::Read::take(std::io::repeat(b'a'), 1 << 30)).unwrap();
    let packed = archive.into_inner().unwrap().finish().unwrap();
    let error = anyhow::Error::from(unpack_artifact(&packed).unwrap_err());
    assert!(format!("{error:#}").contains("exceed 1048576 bytes"), "{error:#}");
}

#[test]
fn a_large_file_is_packaged_and_read_in_chunks() {
    let base = tempfile::tempdir().unwrap();
    let recipe = write_sources(base.path());
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(base.path().join("build/demo"), &bytes).unwrap();
    let built = build_artifact(&recipe, base.path(), &parse_version("1.0"), &base.path().join("dist")).unwrap();
    let file = &built.manifest.files[0];
    assert!(file.chunks.len() > 10, "{} chunks", file.chunks.len());
    let UnpackedArtifact { artifact, contents } = Artifact::open(&built.path).unwrap();
    assert_eq!(artifact, built);
    let read = file.contents().flat_map(|(digest, _)| contents.read_beginning(digest, u64::MAX).unwrap().unwrap());
    assert!(read.eq(bytes), "other bytes");
    assert_eq!(contents.read_beginning(&file.sha256, u64::MAX).unwrap(), None, "it is sent in chunks");
}

#[test]
fn chunks_must_be_those_of_the_file() {
    let chunk = |bytes: &[u8]| serde_json::json!({"size": bytes.len(), "sha256": Digest::of_bytes(bytes)});
    let manifest = |chunks: &[&[u8]], more: u64| {
        let mut manifest: serde_json::Value = serde_json::from_str(&manifest_json(&[("a", b"12")])).unwrap();
        let mut chunks: Vec<serde_json::Value> = chunks.iter().map(|bytes| chunk(bytes)).collect();
        chunks[0]["size"] = (chunks[0]["size"].as_u64().unwrap() + more).into();
        manifest["files"][0]["chunks"] = chunks.into();
        craft_archive(&manifest.to_string(), &[archive_file("files/a", b"12")])
    };
    let check = |chunks: &[&[u8]], more: u64| {
        let mut contents = ContentFile::create(&std::env::temp_dir()).unwrap();
        let result = unpack::unpack_artifact(manifest(chunks, more).as_slice(), &mut contents);
        result.map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(check(&[b"1", b"2"], 0), Ok(()));
    assert!(check(&[b"1", b"3"], 0).unwrap_err().contains("digest"));
    for (chunks, more) in [(&[&b"1"[..], b"2", b"3"][..], 0), (&[b"1"], 0), (&[b"1", b"2"], 1), (&[b"12", b""], 0)] {
        assert!(check(chunks, more).unwrap_err().contains("size of its chunks"), "{chunks:?} {more}");
    }
    assert!(check(&[b"1", b"2"], 2 << 20).unwrap_err().contains("too long"));
}
