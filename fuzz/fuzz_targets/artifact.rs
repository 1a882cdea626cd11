//! Artifacts: the archive itself, and its compressed form.
#![no_main]

use std::path::Path;

use dunlin::deploy::artifact::Artifact;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let path = Path::new("dist/fuzz-1.0.tar.zst");
    let _ = Artifact::parse(path, data);
    // Mutations of compressed bytes rarely reach the archive; these always do.
    let packed = zstd::bulk::compress(data, 1).expect("compression in memory");
    if let Ok(artifact) = Artifact::parse(path, &packed) {
        for file in &artifact.manifest.files {
            assert!(artifact.blobs().contains_key(&file.sha256), "a file of the manifest has no content");
        }
    }
});
